"""Hash the shingles of texts to 64 bits and compute their MinHash, with numpy over whole batches.

Words are runs of letters, digits and underscores, and runs of punctuation, so `a + b` and `a - b` differ. A
shingle is `size` consecutive words; a text with fewer words is one shingle, a text without words has none.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CHUNK_ROWS = 256  # texts hashed at a time, so that the data stays in the processor's cache
BASE, WORD_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
FNV_PRIME = np.uint64(0x100000001B3)
TABLE_SHINGLES = 1 << 18  # shingles of the pairs compared at a time, unless a single pair has more
NO_SHINGLE = np.uint64(0xFFFFFFFFFFFFFFFF)  # sorts last


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the shingles of each text, in text order.

    Returns:
        uint64 [shingles of all texts], and int64 [n]: how many belong to each text. Two different shingles
        share a hash with a chance of 2^-64.
    """
    if not texts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    values = characters("\n".join(texts) + "\n")
    kinds = (values & 1) + (values > 0)
    starts = np.flatnonzero(np.r_[True, kinds[1:] != kinds[:-1]] & (kinds > 0))
    bounds = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)  # each text and its line feed
    ends = np.searchsorted(starts, bounds)
    return run_hashes(hashed_words(values, starts), ends, size)


def characters(text: str) -> np.ndarray:
    """Return an unsigned integer for each character: 0 for white space, odd for punctuation, else even."""
    if text.isascii():  # a table of bytes is ten times as fast
        return np.frombuffer(text.encode().translate(ascii_values()), np.uint8)
    return values_of_all()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]


@lru_cache(maxsize=1)
def values_of_all() -> np.ndarray:
    """Return the number of each character, uint32 [0x110000]; letters and spaces are those of Python's `re`."""
    letters = np.arange(0x110000, dtype=np.uint32).view("U1")
    in_words = np.char.isalnum(letters) | (letters == "_")
    return (2 * np.arange(0x110000, dtype=np.uint32) + ~in_words) * ~np.char.isspace(letters)


@lru_cache(maxsize=1)
def ascii_values() -> bytes:
    return np.resize(values_of_all()[:128], 256).astype(np.uint8).tobytes()


def hashed_words(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return a polynomial hash of each word: prefix sum at its end minus that at the previous word's end."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    powers, inverses = base_powers(1 << max(18, (len(values) - 1).bit_length()))
    sums = np.multiply(values, powers[: len(values)], dtype=np.uint64)
    np.cumsum(sums, out=sums)
    words = np.diff(sums[np.append(starts[1:], len(values)) - 1], prepend=np.uint64(0))
    return words * inverses[starts]


@lru_cache(maxsize=1)
def base_powers(size: int) -> list[np.ndarray]:
    """Return `size` powers of BASE, and of its inverse, modulo 2^64."""
    both = [np.full(size, base) for base in (BASE, np.uint64(pow(int(BASE), -1, 1 << 64)))]
    for powers in both:
        powers[0] = 1
        np.multiply.accumulate(powers, out=powers)
    return both


def run_hashes(words: np.ndarray, ends: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash each run of `size` words within a text; the words of text i end before `ends[i]`."""
    counts = np.diff(ends, prepend=0)
    left = np.repeat(ends, counts) - np.arange(len(words))  # words of the text from each on
    runs = words.copy()
    for place in range(1, size):
        runs *= WORD_BASE
        runs[:-place] += words[place:] * (left[:-place] > place)
    shingles = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    return mix_bits(runs[ragged_places(ends - counts, shingles)]), shingles


def ragged_places(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the numbers from each of `firsts` on, as many as `counts` says, one after another."""
    return np.arange(int(counts.sum())) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)


def mix_bits(values: np.ndarray) -> np.ndarray:
    """Apply splitmix64's finaliser (Steele, Lea, Flood 2014): each output bit depends on all input bits."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@lru_cache(maxsize=4)
def permutation_numbers(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = mix_bits(np.arange(1, 2 * permutations + 1, dtype=np.uint64)) >> np.uint64(32)
    both = numbers.astype(np.uint32)
    return both[:permutations] | np.uint32(1), both[permutations:]


def minhash(hashes: np.ndarray, counts: np.ndarray, permutations: int) -> np.ndarray:
    """Compute MinHash values (Broder 1997): the least `(hash ^ r) * a` of a row's shingles, for each (r, odd
    a).

    Args:
        hashes: uint64, the shingles of all rows.
        counts: int64 [n], number of shingles of each row, all above 0.

    Returns:
        uint32 [permutations, n]: two rows agree in a value with a chance equal to their Jaccard similarity.
    """
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum(counts)
    factors, masks = permutation_numbers(permutations)
    values = np.empty((permutations, len(counts)), np.uint32)
    work, firsts = np.empty_like(short), ends - counts
    for place in range(permutations if len(counts) else 0):
        np.bitwise_xor(short, masks[place], out=work)
        np.multiply(work, factors[place], out=work)
        np.minimum.reduceat(work, firsts, out=values[place])
    return values


def band_keys(values: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Compute a 64-bit key for each band of each row.

    Args:
        values: uint32 [permutations, n], with permutations >= bands * rows.

    Returns:
        uint64 [bands, n]; equal keys within a band mean equal MinHash values (up to a 64-bit hash). The
        band's number is part of the key, so keys of different bands collide only by chance.
    """
    values = values[: bands * rows].reshape(bands, rows, values.shape[1])
    keys = np.repeat(np.arange(1, bands + 1, dtype=np.uint64)[:, None], values.shape[2], axis=1)
    for place in range(rows):
        keys ^= values[:, place] + np.uint64(0x9E3779B97F4A7C15)
        keys *= FNV_PRIME
        keys ^= keys >> np.uint64(29)
    return keys


def shared_shares(hashes: np.ndarray, counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the exact Jaccard similarity of pairs of rows.

    The shingles of a pair fill a row of a table; the last bit of each marks its side. In a sorted row,
    neighbours that differ only in that bit are shared, and equal neighbours are repeats within one text. Many
    short sorts take a tenth of the time of one long sort.

    Args:
        hashes, counts: shingles of some rows, as from `shingle_hashes`.
        left, right: int64 [pairs], positions of rows in `counts`.

    Returns:
        float64 [pairs]; 0 where neither row has a shingle.
    """
    firsts = np.cumsum(counts) - counts
    sizes = counts[left] + counts[right]
    longest = np.argsort(-sizes, kind="stable")
    similarity = np.zeros(len(left))
    start = 0
    while start < len(left) and sizes[longest[start]]:
        width = int(sizes[longest[start]])
        pairs = longest[start : start + max(1, TABLE_SHINGLES // width)]
        start += len(pairs)
        rows = np.stack([left[pairs], right[pairs]], axis=1).reshape(-1)
        sides = np.repeat(np.tile(np.arange(2, dtype=np.uint64), len(pairs)), counts[rows])
        table = np.full((len(pairs), width), NO_SHINGLE)
        filled = np.arange(width) < sizes[pairs, None]
        table[filled] = hashes[ragged_places(firsts[rows], counts[rows])] & ~np.uint64(1) | sides
        table.sort(axis=1)
        steps = table[:, 1:] ^ table[:, :-1]
        shared = np.count_nonzero(steps == 1, axis=1)
        different = 1 + np.count_nonzero(steps, axis=1) - (sizes[pairs] < width)
        similarity[pairs] = shared / np.maximum(different - shared, 1)
    return similarity
