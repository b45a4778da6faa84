"""Hash runs of words over many texts at once, to find the texts that may hold one of a set of runs.

A run's hash is a polynomial modulo 2^64 (Karp and Rabin 1987), read off prefix sums. That is a few numpy
operations per byte, where plain Python would build a string per word. Two runs may share a hash, so a hit
must still be compared; a miss is certain.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from stages.clean.row import WORD_PATTERN

HASH_BATCH_BYTES = 1 << 20  # of text at a time; each takes some forty bytes of memory
WORD_BYTES = np.zeros(256, dtype=bool)  # ASCII letters and digits, underscores, and bytes of other characters
WORD_BYTES[[*b"0123456789_abcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
SPAN_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse
FILTER_BITS = 21


def modular_powers(base: int, size: int) -> np.ndarray:
    """Return 1, base, base^2, ... modulo 2^64; uint64 [size]."""
    values = np.full(size, base, dtype=np.uint64)
    values[:1] = 1
    return np.cumprod(values, dtype=np.uint64)


BASE_POWERS = modular_powers(SPAN_BASE, HASH_BATCH_BYTES + 2)
INVERSE_POWERS = modular_powers(pow(SPAN_BASE, -1, 1 << 64), HASH_BATCH_BYTES + 2)


def span_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the uint64 hash of `values[start:end]` for each start and end."""
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * BASE_POWERS[: len(values)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * INVERSE_POWERS[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(29))


class WordHashes:
    """Hashes of the lower-cased words of texts: runs of letters, digits and underscores of any alphabet."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts` hold at most `HASH_BATCH_BYTES` bytes together, see `text_batches`."""
        encoded = [word_bytes(text) for text in texts]
        data = np.frombuffer(b" ".join([b"", *encoded, b""]), dtype=np.uint8)
        is_word = WORD_BYTES[data].view(np.int8)
        edges = np.flatnonzero(np.diff(is_word)) + 1
        starts, ends = edges[::2], edges[1::2]
        self.hashes = span_hashes(data.astype(np.uint64), starts, ends)  # uint64 [words]
        text_ends = np.cumsum([len(text) + 1 for text in encoded])
        # int64 [words]: index of each word's text
        self.texts = np.searchsorted(text_ends, starts, side="right")

    def runs(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (hashes of all runs of `size` words within a text, indexes of their texts)."""
        starts = np.arange(max(0, len(self.hashes) - size + 1))
        starts = starts[self.texts[starts] == self.texts[starts + size - 1]]
        return span_hashes(self.hashes, starts, starts + size), self.texts[starts]


def word_bytes(text: str) -> bytes:
    """Encode `text` in lower case such that every byte outside a word is ASCII."""
    if text.isascii():
        return text.encode().lower()
    return " ".join(WORD_PATTERN.findall(text.lower())).encode("utf-8", "surrogatepass")


def text_batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield indexes of texts in batches that fit `WordHashes`; a text too long for any batch is in none."""
    batch: list[int] = []
    room = HASH_BATCH_BYTES
    for place, text in enumerate(texts):
        size = (1 if text.isascii() else 4) * len(text) + 1
        if size > HASH_BATCH_BYTES:
            continue
        if size > room:
            yield batch
            batch, room = [], HASH_BATCH_BYTES
        batch.append(place)
        room -= size
    if batch:
        yield batch


class WordRunSet:
    """A set of runs of `size` words, looked up by hash."""

    def __init__(self, runs: Sequence[str], size: int) -> None:
        """`runs`: each of exactly `size` words, separated by spaces."""
        self.size = size
        hashes = [
            WordHashes([runs[place] for place in places]).runs(size)[0] for places in text_batches(runs)
        ]
        self.hashes = np.unique(np.concatenate([*hashes, np.empty(0, dtype=np.uint64)]))
        self.filter = np.zeros(1 << FILTER_BITS, dtype=bool)  # alone rules out most runs
        self.filter[self.hashes >> np.uint64(64 - FILTER_BITS)] = True

    def texts(self, words: WordHashes) -> set[int]:
        """Return the indexes of texts that may hold a run of this set."""
        hashes, texts = words.runs(self.size)
        places = np.flatnonzero(self.filter[hashes >> np.uint64(64 - FILTER_BITS)])
        hashes, texts = hashes[places], texts[places]
        found = np.searchsorted(self.hashes, hashes)
        held = found < len(self.hashes)
        held[held] = self.hashes[found[held]] == hashes[held]
        return set(texts[held].tolist())
