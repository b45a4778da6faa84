"""Find near duplicates (Broder 1997): LSH bands to find candidate pairs, the exact Jaccard similarity to decide
each, and connected components of the pairs that remain.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stages.clean.duplicates.signatures import (
    ANSWER,
    QUESTION,
    Signatures,
    configured_bands,
    run_starts,
    sorted_unique,
)
from stages.clean.settings import NearDuplicates

LEADERS = 16  # rows of a group compared with all others in it: groups of up to 17 are compared completely
ROUNDS = 64  # kept rows of a component that each other row is compared with
BATCH_PAIRS = 1 << 16  # pairs to compare before components are joined
PASS_KEYS = 1 << 20  # keys per pass, unless a single band has more; memory grows with it
SEEN_PAIRS_PER_ROW = 2  # pairs remembered per row, on average; a forgotten pair is only compared again


@dataclass
class Likeness:
    """Decides which rows are duplicates of each other; rows are given by number."""

    signatures: Signatures
    questions: np.ndarray  # uint64 [n], digest of the question, 0 for a row without one
    settings: NearDuplicates

    def same_question(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return where one row asks nothing, or both the same, or what is alike by `related`."""
        asked, other = self.questions[left], self.questions[right]
        same = (asked == 0) | (other == 0) | (asked == other)
        differ = np.flatnonzero(~same)
        similarity = self.signatures.similarity(left[differ], right[differ], QUESTION)
        same[differ] = similarity >= self.settings.related
        return same

    def duplicates(self, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Return where rows of a `similarity`, their answers and their questions are alike."""
        alike = similarity >= self.settings.threshold
        for holds in (self.same_answer, self.same_question):
            places = np.flatnonzero(alike)
            alike[places] = holds(left[places], right[places])
        return alike

    def same_answer(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return where answers are alike by `threshold`, or neither row has shingles beside its question."""
        none = (self.signatures.counts[left, 1] == 0) & (self.signatures.counts[right, 1] == 0)
        return none | (self.signatures.similarity(left, right, ANSWER) >= self.settings.threshold)

    def near(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self.duplicates(left, right, self.signatures.similarity(left, right))


class Components:
    """Connected components, joined by batches of edges; `labels` is int32 [n], a component's lowest row."""

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size, dtype=np.int32)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right = self.labels[left], self.labels[right]
        nodes = sorted_unique(np.r_[left, right])
        if not len(nodes):
            return
        ends = (np.searchsorted(nodes, left), np.searchsorted(nodes, right))
        graph = coo_array((np.ones(len(left), dtype=bool), ends), shape=(len(nodes), len(nodes)))
        count, node_labels = connected_components(graph, directed=False)
        least = np.full(count, len(self.labels), np.int32)
        np.minimum.at(least, node_labels, nodes)
        new = np.arange(len(self.labels), dtype=np.int32)
        new[nodes] = least[node_labels]
        np.take(new, self.labels, out=self.labels)


@dataclass
class NearDuplicateGraph:
    """What is known so far of near duplicates among some rows."""

    duplicates: Components  # joined by pairs of duplicates
    related: Components  # joined by pairs at `related` or above
    compared: int = 0
    close_pairs: int = 0
    seen_pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # sorted, no duplicates


def near_components(alive: np.ndarray, likeness: Likeness) -> NearDuplicateGraph:
    """Join the rows in the mask `alive` that are duplicates, and those that are related.

    Pairs that no band brings together are missed, and, in a group of more than LEADERS + 1 rows, pairs
    without a leader. So time stays linear in the rows of a cluster.
    """
    near = NearDuplicateGraph(Components(len(alive)), Components(len(alive)))
    bands, _ = configured_bands(likeness.settings)
    if alive.any():
        step = max(1, PASS_KEYS // int(alive.sum()))
        for start in range(0, bands, step):
            found = likeness.signatures.keys(range(start, min(start + step, bands)), alive)
            keys, rows = drop_unique_keys(*found)
            order = np.lexsort((rows, keys))
            compare_groups(near, likeness, keys[order], rows[order])
    return near


def drop_unique_keys(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop most keys that occur once: hash keys to slots by their low bits and keep slots with more than one.

    About a tenth of the unique keys remain, for the exact sort to remove.
    """
    size = 1 << (4 * len(keys) - 1).bit_length()
    slots = (keys & np.uint64(size - 1)).astype(np.uint32 if size <= 1 << 32 else np.int64)
    last = np.empty(size, np.int32 if len(keys) < 1 << 31 else np.int64)
    places = np.arange(len(keys), dtype=last.dtype)
    last[slots] = places
    is_shared = np.zeros(size, bool)
    is_shared[slots[last[slots] != places]] = True
    kept = is_shared[slots]
    return keys[kept], rows[kept]


def compare_groups(near: NearDuplicateGraph, likeness: Likeness, keys: np.ndarray, rows: np.ndarray) -> None:
    """Compare rows with equal keys: each leader with the rows after it, until the group is one component.

    Args:
        keys, rows: sorted by both; a key of one row has nothing to compare.
    """
    for turn in range(LEADERS):
        starts = run_starts(keys)
        sizes = np.diff(np.r_[starts, len(keys)])
        firsts = np.repeat(starts, sizes)
        later = np.flatnonzero(np.arange(len(keys)) - firsts > turn)
        if not len(later):
            return
        compare_pairs(near, likeness, rows[firsts[later] + turn], rows[later])
        labels = near.duplicates.labels[rows]
        apart = np.logical_or.reduceat(labels != labels[firsts], starts)
        open_ = np.repeat(apart & (sizes > turn + 2), sizes)
        keys, rows = keys[open_], rows[open_]


def compare_pairs(near: NearDuplicateGraph, likeness: Likeness, left: np.ndarray, right: np.ndarray) -> None:
    """Decide unseen pairs between components, in batches, and join the close ones."""
    size = len(near.duplicates.labels)
    related = min(likeness.settings.related, likeness.settings.threshold)
    codes = sorted_unique(left.astype(np.int64) * size + right)
    if len(near.seen_pairs):
        places = np.minimum(np.searchsorted(near.seen_pairs, codes), len(near.seen_pairs) - 1)
        codes = codes[near.seen_pairs[places] != codes]
    for start in range(0, len(codes), BATCH_PAIRS):
        batch = codes[start : start + BATCH_PAIRS]
        left, right = np.divmod(batch, size)
        fresh = near.duplicates.labels[left] != near.duplicates.labels[right]
        left, right = left[fresh], right[fresh]
        similarity = likeness.signatures.similarity(left, right)
        close = likeness.duplicates(left, right, similarity)
        near.compared += len(left)
        near.close_pairs += int(close.sum())
        near.duplicates.join(left[close], right[close])
        near.related.join(left[similarity >= related], right[similarity >= related])
        if len(near.seen_pairs) > SEEN_PAIRS_PER_ROW * size:
            near.seen_pairs = near.seen_pairs[:0]
        near.seen_pairs = np.sort(np.r_[near.seen_pairs, batch[fresh][~close]], kind="stable")


def representatives(
    labels: np.ndarray,
    rows: np.ndarray,
    ranks: np.ndarray,
    alike: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return, as positions in `rows`, the row that is kept for each: the best-ranked of its label that it is
    itself alike; so a chain of pairs drops no row that is unlike the one kept.

    Rounds: the best row of each label that has no representative keeps those alike it, until none is left or
    ROUNDS are over; rows without one then are kept.

    Args:
        labels, rows, ranks: [n], the group, number and rank (0 is best) of each row.
        alike: decides pairs of row numbers; None: rows of a label are alike.
    """
    kept_for = np.arange(len(rows))
    waiting = np.lexsort((ranks, labels))
    for _ in range(ROUNDS):
        starts = run_starts(labels[waiting])
        sizes = np.diff(np.r_[starts, len(waiting)])
        firsts = np.repeat(waiting[starts], sizes)
        others = waiting != firsts
        waiting, firsts = waiting[others], firsts[others]
        if not len(waiting):
            break
        found = alike(rows[firsts], rows[waiting]) if alike else np.ones(len(waiting), bool)
        kept_for[waiting[found]] = firsts[found]
        waiting = waiting[~found]
    return kept_for
