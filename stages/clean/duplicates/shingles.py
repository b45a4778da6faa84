"""Shingles of texts as 64-bit hashes, and their MinHash: numpy over whole batches, no Python loop per row.

Words are runs of letters, digits and underscores, and runs of punctuation: `a + b` and `a - b` differ. A shingle is
`shingle_words` words in a row; a text with fewer words is one shingle, one without words has none.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CHUNK_ROWS = 256  # texts to hash at a time: what is worked on stays in the processor's cache
SPACE, WORD, PUNCTUATION = 0, 1, 2
BASE, WORD_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
FNV_PRIME = np.uint64(0x100000001B3)
TABLE_SHINGLES = 1 << 18  # of pairs compared at a time, unless one pair has more
NONE = np.uint64(0xFFFFFFFFFFFFFFFF)  # no shingle: sorts behind all


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the shingles of each text, in the order of the text.

    Returns:
        uint64 [shingles of all texts], and int64 [n]: how many belong to each text. Different shingles have different
        hashes but for a chance of 2^-64 a pair.
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
    return run_hashes(words, counts, ends, size)


def characters(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(kind, value) of each character: small integers that differ between kinds, and unsigned ones that differ between
    characters, 0 for white space.
    """
    if text.isascii():  # told by a table of bytes, ten times as fast
        values = np.frombuffer(text.encode().translate(ascii_values()), np.uint8)
        return (values >> np.uint8(7)) + (values > 0), values
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return kinds_of_all()[codes], values_of_all()[codes]


def hashed_words(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A polynomial hash of each word, from sums over all characters up to its end and up to the last one's."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    power, inverse = powers(len(values))
    sums = np.multiply(values, power[: len(values)], dtype=np.uint64)
    np.cumsum(sums, out=sums)
    words = np.diff(sums[np.append(starts[1:], len(values)) - 1], prepend=np.uint64(0))
    words *= inverse[starts]
    return words


def run_hashes(
    words: np.ndarray, counts: np.ndarray, ends: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each run of `size` words within a text of `counts` words that ends before word `ends`."""
    shingles = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    padded = np.concatenate([words, np.zeros(size, np.uint64)])
    runs = words.copy()
    for place in range(1, size):
        runs *= WORD_BASE
        runs += padded[place : place + len(words)]
    first = ends - counts
    for text in np.flatnonzero((counts > 0) & (counts < size)):  # short texts: nothing of the next one
        run = np.uint64(0)
        with np.errstate(over="ignore"):
            for place in range(size):
                run = run * WORD_BASE + (words[first[text] + place] if place < counts[text] else np.uint64(0))
        runs[first[text]] = run
    offsets = np.cumsum(shingles) - shingles
    places = np.arange(int(shingles.sum())) + np.repeat(first - offsets, shingles)
    return mixed(runs[places]), shingles


@lru_cache(maxsize=1)
def kinds_of_all() -> np.ndarray:
    """The kind of each character, as `\\w` and `\\s` of Python's `re` have it; uint8 [0x110000]."""
    letters = np.arange(0x110000, dtype=np.uint32).view("U1")
    kinds = np.full(len(letters), PUNCTUATION, np.uint8)
    kinds[np.char.isspace(letters)] = SPACE
    kinds[np.char.isalnum(letters)] = WORD
    kinds[ord("_")] = WORD
    return kinds


@lru_cache(maxsize=1)
def values_of_all() -> np.ndarray:
    """A number for each character, uint32 [0x110000]: 0 for white space, below 128 for the letters and digits of ASCII, from
    128 on for its punctuation, from 256 on for all else.
    """
    kinds = kinds_of_all()
    values = np.arange(len(kinds), dtype=np.uint32)
    values[:128] += (kinds[:128] == PUNCTUATION) * np.uint32(128)
    values[128:] += np.uint32(128)
    return values * (kinds != SPACE)


@lru_cache(maxsize=1)
def ascii_values() -> bytes:
    return values_of_all()[:256].astype(np.uint8).tobytes()


def powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of BASE and of its inverse modulo 2^64, at least `size` of each."""
    return powers_of(1 << max(16, (size - 1).bit_length())) if size < 1 << 24 else powers_of.__wrapped__(size)


@lru_cache(maxsize=4)
def powers_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
    both = []
    for base in (BASE, inverse):
        values = np.full(size, base)
        values[0] = 1
        both.append(np.multiply.accumulate(values))
    return both[0], both[1]


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): each bit depends on all."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@lru_cache(maxsize=4)
def permutation_numbers(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = mixed(np.arange(1, 2 * permutations + 1, dtype=np.uint64)) >> np.uint64(32)
    both = numbers.astype(np.uint32)
    return both[:permutations] | np.uint32(1), both[permutations:]


def minhash(hashes: np.ndarray, counts: np.ndarray, permutations: int) -> np.ndarray:
    """MinHash values (Broder 1997): the least of `(hash ^ r) * a` over a row's shingles, for each pair of r and odd a.

    Args:
        hashes: uint64, the shingles of all rows.
        counts: int64 [n], shingles of each row, none of them 0.

    Returns:
        uint32 [permutations, n]: two rows agree in each value with the chance of their Jaccard similarity.
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
    """One 64-bit key for each band of each row.

    Args:
        values: uint32 [permutations, n], with permutations >= bands * rows.

    Returns:
        uint64 [bands, n]; equal keys within a band mean equal MinHash values (up to a 64-bit hash). The band's number
        is part of the key: keys of two bands never meet on purpose.
    """
    values = values[: bands * rows].reshape(bands, rows, values.shape[1])
    keys = np.repeat(np.arange(1, bands + 1, dtype=np.uint64)[:, None], values.shape[2], axis=1)
    for place in range(rows):
        keys ^= values[:, place] + np.uint64(0x9E3779B97F4A7C15)
        keys *= FNV_PRIME
        keys ^= keys >> np.uint64(29)
    return keys


def shared_shares(hashes: np.ndarray, counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Exact Jaccard similarity of pairs of rows.

    The shingles of a pair are a row of a table, the last bit of each telling its side. Sorted, neighbours that differ in
    that bit alone are shared, and equal ones stand twice in one text. Many short sorts take a tenth of a long one.

    Args:
        hashes, counts: shingles of some rows, as of `shingle_hashes`.
        left, right: int64 [pairs], positions of rows in `counts`.

    Returns:
        float64 [pairs]; 0 where both have no shingle.
    """
    sizes = counts[left] + counts[right]
    longest = np.argsort(-sizes, kind="stable")
    similarity = np.zeros(len(left))
    start = 0
    while start < len(left) and sizes[longest[start]]:
        width = int(sizes[longest[start]])
        pairs = longest[start : start + max(1, TABLE_SHINGLES // width)]
        start += len(pairs)
        table = np.full((len(pairs), width), NONE)
        place(table, 0, hashes, counts, left[pairs], np.zeros(len(pairs), np.int64))
        place(table, 1, hashes, counts, right[pairs], counts[left[pairs]])
        table.sort(axis=1)
        steps = table[:, 1:] ^ table[:, :-1]
        shared = np.count_nonzero(steps == 1, axis=1)
        different = 1 + np.count_nonzero(steps, axis=1) - (sizes[pairs] < width)
        similarity[pairs] = shared / np.maximum(different - shared, 1)
    return similarity


def place(
    table: np.ndarray,
    side: int,
    hashes: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Write the shingles of each of `rows` into its row of `table`, from its column on."""
    sizes = counts[rows]
    before = np.cumsum(sizes) - sizes
    each = np.arange(int(sizes.sum()))
    starts = (np.cumsum(counts) - counts)[rows]
    values = hashes[each + np.repeat(starts - before, sizes)]
    values &= ~np.uint64(1)
    values |= np.uint64(side)
    firsts = np.arange(len(rows)) * table.shape[1] + columns
    table.reshape(-1)[each + np.repeat(firsts - before, sizes)] = values
