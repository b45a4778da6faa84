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

NEIGHBOURS = 16  # rows of equal key that a row is compared with: groups of up to 17 are compared completely
ROUNDS = 64  # kept rows of a component that each other row is compared with
SEEN_PAIRS_PER_ROW = 2  # pairs remembered per row, on average; a forgotten pair is only compared again


@dataclass
class Likeness:
    """Decides which rows are duplicates of each other; rows are given by number."""

    signatures: Signatures
    questions: np.ndarray  # uint64 [n], digest of the question, 0 for a row without one
    settings: NearDuplicates
    parents: np.ndarray | None = None  # uint64 [n], digest of the parent, 0 for a row without one

    def different_parents(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return where rows are not renderings of one thing."""
        if self.parents is None:
            return np.ones(len(left), bool)
        return (self.parents[left] == 0) | (self.parents[left] != self.parents[right])

    def renamed(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return where rows of equal code are duplicates."""
        return self.same_question(left, right) & self.different_parents(left, right)

    def same_question(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return where one row asks nothing, or both the same, or what is alike by `related`."""
        asked, other = self.questions[left], self.questions[right]
        same = (asked == 0) | (other == 0) | (asked == other)
        differ = np.flatnonzero(~same)
        similarity = self.signatures.similarity(left[differ], right[differ], QUESTION)
        same[differ] = similarity >= self.settings.related
        return same

    def duplicates(self, left: np.ndarray, right: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Return where rows of a `similarity` are alike in answer and question, and of different parents."""
        alike = similarity >= self.settings.threshold
        for holds in (self.same_answer, self.same_question, self.different_parents):
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
    seen_pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def near_components(alive: np.ndarray, likeness: Likeness) -> NearDuplicateGraph:
    """Join the rows in the mask `alive` that are duplicates, and those that are related.

    In each band, a row is compared with the NEIGHBOURS rows after it that have its key. Pairs that no band
    brings together are missed, and pairs further apart that no row between them connects. So time stays linear
    in the rows of a cluster.
    """
    near = NearDuplicateGraph(Components(len(alive)), Components(len(alive)))
    bands, _ = configured_bands(likeness.settings)
    for band in range(bands):
        keys, rows = likeness.signatures.keys(band, alive)
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        for distance in range(1, NEIGHBOURS + 1):
            places = np.flatnonzero(keys[distance:] == keys[:-distance])
            if not len(places):
                break
            compare_pairs(near, likeness, rows[places], rows[places + distance])
    return near


def compare_pairs(near: NearDuplicateGraph, likeness: Likeness, left: np.ndarray, right: np.ndarray) -> None:
    """Decide unseen pairs between components, and join the close ones."""
    size = len(near.duplicates.labels)
    related = min(likeness.settings.related, likeness.settings.threshold)
    apart = near.duplicates.labels[left] != near.duplicates.labels[right]
    codes = left[apart].astype(np.int64) * size + right[apart]
    codes = codes[~np.isin(codes, near.seen_pairs)]
    left, right = np.divmod(codes, size)
    similarity = likeness.signatures.similarity(left, right)
    close = likeness.duplicates(left, right, similarity)
    near.compared += len(codes)
    near.close_pairs += int(close.sum())
    near.duplicates.join(left[close], right[close])
    near.related.join(left[similarity >= related], right[similarity >= related])
    near.seen_pairs = np.r_[near.seen_pairs, codes[~close]][-SEEN_PAIRS_PER_ROW * size :]


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
