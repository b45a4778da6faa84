"""Shingles of texts as 64-bit hashes, and their MinHash: numpy over whole batches, no Python loop per row.

Words are runs of letters, digits and underscores, and runs of punctuation: `a + b` and `a - b` differ. A shingle is
`shingle_words` words in a row; a text with fewer words is one shingle, one without words has none.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CHUNK_ROWS = 512  # texts hashed at a time: what is worked on stays in the processor's cache
MINHASH_ROWS = 1024  # rows whose MinHash is worked out at a time
SPACE, WORD, PUNCTUATION = 0, 1, 2
BASE, WORD_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
FNV_PRIME = np.uint64(0x100000001B3)


def shingle_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the shingles of each text, in the order of the text.

    Returns:
        uint64 [shingles of all texts], and int64 [n]: how many belong to each text. Different shingles have different
        hashes but for a chance of 2^-64 a pair.
    """
    parts = [chunk_hashes(texts[i : i + CHUNK_ROWS], size) for i in range(0, len(texts), CHUNK_ROWS)]
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate([hashes for hashes, _ in parts]), np.concatenate([counts for _, counts in parts])


def chunk_hashes(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    codes = np.frombuffer(("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass"), np.uint32)
    bounds = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)  # each text and its line feed
    kinds, mixes = tables()
    kind = kinds[codes]
    change = np.empty(len(codes), bool)
    change[0] = True
    np.not_equal(kind[1:], kind[:-1], out=change[1:])
    starts = np.flatnonzero(change & (kind != SPACE))
    words = hashed_words(codes, mixes, kind, starts)
    ends = np.searchsorted(starts, bounds)
    counts = np.diff(ends, prepend=0)
    return run_hashes(words, counts, ends, size)


def hashed_words(codes: np.ndarray, mixes: np.ndarray, kind: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A polynomial hash of each word, from sums over all characters up to its start and up to the next one's."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    power, inverse = powers(len(codes))
    values = mixes[codes]
    values *= power[: len(codes)]
    values *= kind != SPACE
    sums = np.cumsum(values)
    before = np.append(sums[starts] - values[starts], sums[-1])
    total = before[1:] - before[:-1]
    return mixed(total * inverse[starts])


def run_hashes(
    words: np.ndarray, counts: np.ndarray, ends: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each run of `size` words within a text of `counts` words that ends before word `ends`."""
    shingles = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    padded = np.concatenate([words, np.zeros(size, np.uint64)])
    runs = np.zeros(len(words), np.uint64)
    for place in range(size):
        runs = runs * WORD_BASE + padded[place : place + len(words)]
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
def tables() -> tuple[np.ndarray, np.ndarray]:
    """For each character its kind, as `\\w` and `\\s` of Python's `re` have it, and a random number of its own."""
    kinds = np.full(0x110000, PUNCTUATION, np.uint8)
    for code in range(0x110000):
        character = chr(code)
        if character.isalnum() or code == 0x5F:
            kinds[code] = WORD
        elif character.isspace():
            kinds[code] = SPACE
    return kinds, mixed(np.arange(1, 0x110001, dtype=np.uint64))


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
    for start in range(0, len(counts), MINHASH_ROWS):
        rows = slice(start, min(start + MINHASH_ROWS, len(counts)))
        begin, end = int(ends[rows.start] - counts[rows.start]), int(ends[rows.stop - 1])
        part, firsts = short[begin:end], ends[rows] - counts[rows] - begin
        work = np.empty_like(part)
        for place in range(permutations):  # one permutation over many rows: no array leaves the cache
            np.bitwise_xor(part, masks[place], out=work)
            np.multiply(work, factors[place], out=work)
            np.minimum.reduceat(work, firsts, out=values[place, rows])
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
    """Exact Jaccard similarity of pairs of rows, by a sparse matrix of rows by shingles.

    Args:
        hashes, counts: shingles of some rows, as of `shingle_hashes`.
        left, right: int64 [pairs], positions of rows in `counts`.

    Returns:
        float64 [pairs]; 0 where both have no shingle.
    """
    from scipy.sparse import csr_array

    rows = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(hashes, kind="stable")  # stable: rows ascend within a hash
    hashes, rows = hashes[order], rows[order]
    new = np.r_[True, hashes[1:] != hashes[:-1]][: len(hashes)]
    first = new | np.r_[True, rows[1:] != rows[:-1]][: len(hashes)]  # a shingle twice in a row counts once
    columns = (np.cumsum(new) - 1)[first]
    rows = rows[first]
    order = np.argsort(rows, kind="stable")
    sizes = np.bincount(rows, minlength=len(counts))
    shape = (len(counts), int(new.sum()))
    matrix = csr_array((np.ones(len(rows), np.int32), columns[order], np.r_[0, np.cumsum(sizes)]), shape)
    shared = matrix[left].multiply(matrix[right]).sum(axis=1)
    return shared / np.maximum(sizes[left] + sizes[right] - shared, 1)
