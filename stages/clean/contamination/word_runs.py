"""Hashes of runs of words over many texts at once: which of them hold a run that is looked for.

A run's hash is a polynomial modulo 2^64 (Karp and Rabin 1987), read off prefix sums: a few operations of numpy a byte,
where the same in Python costs a string a word. Two runs may share a hash, so what is found is still to be compared; what
is not found is not there.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from stages.clean.row import WORD

BATCH_BYTES = 1 << 20  # of text at a time: memory is some forty bytes for each
WORD_BYTES = np.zeros(256, dtype=bool)  # ASCII letters and digits, underscores, and bytes of other characters
WORD_BYTES[[*b"0123456789_abcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
FILTER_BITS = 21


def powers(base: int, size: int) -> np.ndarray:
    """uint64 [size]: 1, base, base^2, ... modulo 2^64."""
    values = np.full(size, base, dtype=np.uint64)
    values[:1] = 1
    return np.cumprod(values, dtype=np.uint64)


BASE_POWERS = powers(BASE, BATCH_BYTES + 2)
INVERSE_POWERS = powers(pow(BASE, -1, 1 << 64), BATCH_BYTES + 2)


def run_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 hashes of `values[start:end]`, for each start and end."""
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * BASE_POWERS[: len(values)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * INVERSE_POWERS[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(29))


class Words:
    """Hashes of the lower-cased words of texts, a word a run of letters, digits and underscores of any alphabet."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts` hold at most `BATCH_BYTES` bytes together, see `batches`."""
        plain = [word_bytes(text) for text in texts]
        data = np.frombuffer(b" ".join([b"", *plain, b""]), dtype=np.uint8)
        is_word = WORD_BYTES[data].view(np.int8)
        edges = np.flatnonzero(np.diff(is_word)) + 1
        starts, ends = edges[::2], edges[1::2]
        self.hashes = run_hashes(data.astype(np.uint64), starts, ends)  # uint64 [words]
        text_ends = np.cumsum([len(text) + 1 for text in plain])
        self.texts = np.searchsorted(
            text_ends, starts, side="right"
        )  # int64 [words]: place of each word's text

    def runs(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(hashes of all runs of `size` words of one text, places of their texts)."""
        starts = np.arange(max(0, len(self.hashes) - size + 1))
        starts = starts[self.texts[starts] == self.texts[starts + size - 1]]
        return run_hashes(self.hashes, starts, starts + size), self.texts[starts]


def word_bytes(text: str) -> bytes:
    """`text` in lower case, where all that is no byte of a word is ASCII."""
    if text.isascii():
        return text.encode().lower()
    return " ".join(WORD.findall(text.lower())).encode("utf-8", "surrogatepass")


def batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places of texts that are few enough for `Words`; a text that is too long alone is in none."""
    chosen: list[int] = []
    room = BATCH_BYTES
    for place, text in enumerate(texts):
        size = (1 if text.isascii() else 4) * len(text) + 1
        if size > BATCH_BYTES:
            continue
        if size > room:
            yield chosen
            chosen, room = [], BATCH_BYTES
        chosen.append(place)
        room -= size
    if chosen:
        yield chosen


class Runs:
    """A set of runs of `size` words, looked up by hash."""

    def __init__(self, runs: Sequence[str], size: int) -> None:
        """`runs`: of exactly `size` words each, with spaces between."""
        self.size = size
        found = [Words([runs[place] for place in places]).runs(size)[0] for places in batches(runs)]
        self.hashes = np.unique(np.concatenate([*found, np.empty(0, dtype=np.uint64)]))
        self.filter = np.zeros(1 << FILTER_BITS, dtype=bool)  # most runs are told to be absent by this alone
        self.filter[self.hashes >> np.uint64(64 - FILTER_BITS)] = True

    def texts(self, words: Words) -> set[int]:
        """Places of the texts that may hold a run of this set."""
        hashes, texts = words.runs(self.size)
        places = np.flatnonzero(self.filter[hashes >> np.uint64(64 - FILTER_BITS)])
        hashes, texts = hashes[places], texts[places]
        found = np.searchsorted(self.hashes, hashes)
        held = found < len(self.hashes)
        held[held] = self.hashes[found[held]] == hashes[held]
        return set(texts[held].tolist())
