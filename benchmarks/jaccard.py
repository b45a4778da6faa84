"""The truth about near duplicates: every pair of texts whose Jaccard similarity is at least a threshold, exactly.

Prefix filtering (Bayardo, Ma, Srikant: Scaling up all pairs similarity search, 2007): with shingles ordered from rare to
frequent, two sets of similarity t share one of the first |x| - ceil(t |x|) + 1 shingles of each. Nothing is hashed or
sampled, and nothing is shared with the stage that is measured but the definition of a shingle.
"""

import re
from collections.abc import Sequence

import numpy as np

WORDS = re.compile(r"\w+|[^\w\s]+")
PAIRS_AT_ONCE = 2_000_000
TINY = 1e-9


def shingle_sets(texts: Sequence[str], size: int) -> list[np.ndarray]:
    """Sorted numbers of the shingles of each text, the rarest lowest. A text of fewer words is one shingle."""
    numbers: dict[tuple[str, ...], int] = {}
    found = []
    for text in texts:
        words = WORDS.findall(text)
        runs = {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} if words else set()
        found.append(
            np.fromiter((numbers.setdefault(run, len(numbers)) for run in runs), np.int64, len(runs))
        )
    frequency = np.bincount(np.concatenate([*found, np.zeros(0, np.int64)]), minlength=len(numbers))
    place = np.empty(len(numbers), np.int64)
    place[np.argsort(frequency, kind="stable")] = np.arange(len(numbers))
    return [np.sort(place[row]) for row in found]


def pairs_at_least(sets: Sequence[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left, right, similarity) of all pairs of sets, left < right, with a similarity of at least `threshold`.

    Args:
        sets: sorted numbers, rare ones low; see `shingle_sets`.
        threshold: over 0.
    """
    prefixes = [row[: len(row) - int(np.ceil(threshold * len(row) - TINY)) + 1] for row in sets]
    rows = np.repeat(np.arange(len(sets)), [len(prefix) for prefix in prefixes])
    shingles = np.concatenate([*prefixes, np.zeros(0, np.int64)])
    order = np.lexsort((rows, shingles))
    rows, shingles = rows[order], shingles[order]
    starts = np.flatnonzero(np.r_[True, shingles[1:] != shingles[:-1]][: len(shingles)])
    ends = np.r_[starts[1:], len(shingles)]
    codes, waiting = np.zeros(0, np.int64), []
    size = 0
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        a, b = np.triu_indices(end - start, 1)
        waiting.append(rows[start + a] * len(sets) + rows[start + b])
        size += len(a)
        if size > PAIRS_AT_ONCE:
            codes, waiting, size = np.unique(np.concatenate([codes, *waiting])), [], 0
    codes = np.unique(np.concatenate([codes, *waiting]))
    left, right = np.divmod(codes, max(1, len(sets)))
    sizes = np.array([len(row) for row in sets], dtype=np.int64)
    fits = np.minimum(sizes[left], sizes[right]) >= threshold * np.maximum(sizes[left], sizes[right]) - TINY
    left, right = left[fits], right[fits]
    similarity = np.array([jaccard(sets[a], sets[b]) for a, b in zip(left, right, strict=True)])
    near = similarity >= threshold - TINY
    return left[near], right[near], similarity[near]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
