"""Hash the shingles of texts to 64 bits and compute their MinHash, with numpy over whole batches.

Words are runs of letters, digits and underscores, and runs of punctuation, so `a + b` and `a - b` differ. A
shingle is `shingle_words` consecutive words; a text with fewer words is one shingle, a text without words has
none.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CHUNK_ROWS = 256  # texts hashed at a time, so that the data stays in the processor's cache
SPACE, WORD, PUNCTUATION = 0, 1, 2
BASE, WORD_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
FNV_PRIME = np.uint64(0x100000001B3)
TABLE_SHINGLES = 1 << 18  # shingles of the pairs compared at a time, unless a single pair has more
NO_SHINGLE = np.uint64(0xFFFFFFFFFFFFFFFF)  # no shingle: sorts last


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the shingles of each text, in text order.

    Returns:
        uint64 [shingles of all texts], and int64 [n]: how many belong to each text. Two different shingles
        share a hash with a chance of 2^-64.
    """
    if not texts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    kinds, values = characters("\n".join(texts) + "\n")
    bounds = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)  # each text and its line feed
    change = np.empty(len(kinds), bool)
    change[0] = True
    np.not_equal(kinds[1:], kinds[:-1], out=change[1:])
    change &= kinds != SPACE
    starts = np.flatnonzero(change)
    words = hashed_words(values, starts)
    ends = np.searchsorted(starts, bounds)
    counts = np.diff(ends, prepend=0)
    return shingle_run_hashes(words, counts, ends, size)


def characters(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (kind, value) of each character: a small integer for its kind, and an unsigned integer that
    differs between characters and is 0 for white space.
    """
    if text.isascii():  # a table of bytes is ten times as fast
        values = np.frombuffer(text.encode().translate(ascii_values()), np.uint8)
        return (values >> np.uint8(7)) + (values > 0), values
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return kinds_of_all()[codes], values_of_all()[codes]


def hashed_words(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return a polynomial hash of each word: prefix sum at its end minus that at the previous word's end."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    power, inverse = base_powers(len(values))
    sums = np.multiply(values, power[: len(values)], dtype=np.uint64)
    np.cumsum(sums, out=sums)
    words = np.diff(sums[np.append(starts[1:], len(values)) - 1], prepend=np.uint64(0))
    words *= inverse[starts]
    return words


def shingle_run_hashes(
    words: np.ndarray, counts: np.ndarray, ends: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hash each run of `size` words within a text; text i has `counts[i]` words, ending before `ends[i]`."""
    shingles = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    padded = np.concatenate([words, np.zeros(size, np.uint64)])
    runs = words.copy()
    for place in range(1, size):
        runs *= WORD_BASE
        runs += padded[place : place + len(words)]
    first = ends - counts
    for text in np.flatnonzero((counts > 0) & (counts < size)):  # short texts must not reach into the next
        run = np.uint64(0)
        with np.errstate(over="ignore"):
            for place in range(size):
                run = run * WORD_BASE + (words[first[text] + place] if place < counts[text] else np.uint64(0))
        runs[first[text]] = run
    offsets = np.cumsum(shingles) - shingles
    places = np.arange(int(shingles.sum())) + np.repeat(first - offsets, shingles)
    return mix_bits(runs[places]), shingles


@lru_cache(maxsize=1)
def kinds_of_all() -> np.ndarray:
    """Return the kind of each character, as `\\w` and `\\s` of Python's `re` define it; uint8 [0x110000]."""
    letters = np.arange(0x110000, dtype=np.uint32).view("U1")
    kinds = np.full(len(letters), PUNCTUATION, np.uint8)
    kinds[np.char.isspace(letters)] = SPACE
    kinds[np.char.isalnum(letters)] = WORD
    kinds[ord("_")] = WORD
    return kinds


@lru_cache(maxsize=1)
def values_of_all() -> np.ndarray:
    """Return a number for each character, uint32 [0x110000]: 0 for white space, below 128 for ASCII letters
    and digits, from 128 for ASCII punctuation, from 256 for the rest.
    """
    kinds = kinds_of_all()
    values = np.arange(len(kinds), dtype=np.uint32)
    values[:128] += (kinds[:128] == PUNCTUATION) * np.uint32(128)
    values[128:] += np.uint32(128)
    return values * (kinds != SPACE)


@lru_cache(maxsize=1)
def ascii_values() -> bytes:
    return values_of_all()[:256].astype(np.uint8).tobytes()


def base_powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at least `size` powers of BASE and of its inverse, modulo 2^64."""
    return (
        cached_base_powers(1 << max(16, (size - 1).bit_length()))
        if size < 1 << 24
        else cached_base_powers.__wrapped__(size)
    )


@lru_cache(maxsize=4)
def cached_base_powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
    both = []
    for base in (BASE, inverse):
        values = np.full(size, base)
        values[0] = 1
        both.append(np.multiply.accumulate(values))
    return both[0], both[1]


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
    sizes = counts[left] + counts[right]
    longest = np.argsort(-sizes, kind="stable")
    similarity = np.zeros(len(left))
    start = 0
    while start < len(left) and sizes[longest[start]]:
        width = int(sizes[longest[start]])
        pairs = longest[start : start + max(1, TABLE_SHINGLES // width)]
        start += len(pairs)
        table = np.full((len(pairs), width), NO_SHINGLE)
        fill_side(table, 0, hashes, counts, left[pairs], np.zeros(len(pairs), np.int64))
        fill_side(table, 1, hashes, counts, right[pairs], counts[left[pairs]])
        table.sort(axis=1)
        steps = table[:, 1:] ^ table[:, :-1]
        shared = np.count_nonzero(steps == 1, axis=1)
        different = 1 + np.count_nonzero(steps, axis=1) - (sizes[pairs] < width)
        similarity[pairs] = shared / np.maximum(different - shared, 1)
    return similarity


def fill_side(
    table: np.ndarray,
    side: int,
    hashes: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Write the shingles of each of `rows` into its row of `table`, starting at its column."""
    sizes = counts[rows]
    before = np.cumsum(sizes) - sizes
    each = np.arange(int(sizes.sum()))
    starts = (np.cumsum(counts) - counts)[rows]
    values = hashes[each + np.repeat(starts - before, sizes)]
    values &= ~np.uint64(1)
    values |= np.uint64(side)
    firsts = np.arange(len(rows)) * table.shape[1] + columns
    table.reshape(-1)[each + np.repeat(firsts - before, sizes)] = values
