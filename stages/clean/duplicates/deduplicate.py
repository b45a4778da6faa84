"""Apply the rules over all rows (exact copies, renamed copies, near duplicates) and group related rows."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from stages.clean.duplicates.near_duplicates import (
    Components,
    Likeness,
    NearDuplicateGraph,
    near_components,
    representatives,
)
from stages.clean.duplicates.signatures import configured_bands
from stages.clean.settings import NearDuplicates

# Lower bounds of the cluster size classes that are counted
CLUSTER_SIZES = (2, 3, 4, 5, 10, 20, 50, 100, 1000, 10_000, 100_000)


def normalize_text(text: str) -> str:
    """Return text that is equal for exact copies: NFC, without blank lines and trailing white space."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join([line.rstrip() for line in lines if not line.isspace() and line])


def text_digest(text: str) -> int:
    """Return 64 bits of a digest of the normalized text, never 0."""
    return (
        int.from_bytes(
            hashlib.sha256(normalize_text(text).encode("utf-8", "surrogatepass")).digest()[:8], "big"
        )
        | 1
    )


def key_labels(keys: np.ndarray) -> np.ndarray:
    """Return int [n], equal for rows with equal keys (uint64 [n]); a row with key 0 is alone."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    labels = np.empty(len(order), np.int64)
    labels[order] = np.cumsum(np.r_[True, keys[1:] != keys[:-1]][: len(keys)] | (keys == 0))
    return labels


def preference_ranks(is_tested: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return int [n], the order in which rows are preferred (0 is best): tested, then longer, then earlier.

    The completion's length counts before that of the whole text. A one-line wrapper whose prompt holds the
    function it calls is the longer text, but the function itself is what there is to learn.

    Args:
        is_tested: bool [n]: the row's tests passed or, where no tests were run, it has some.
        sizes: int [n, 2]: characters of the completion and of the whole text.
    """
    order = np.lexsort((-sizes[:, 1], -sizes[:, 0], ~is_tested))  # stable
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return ranks


@dataclass
class Deduplication:
    """Result of the duplicate rules; arrays are indexed by row number."""

    representative: np.ndarray  # int32, the row kept in place of a dropped one; otherwise the row itself
    dropped_by: np.ndarray  # int16, index in `clean.duplicates` of the dropping rule, -1 if none
    component: np.ndarray  # int32, the representative of a kept row's component
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)  # rule -> size class -> clusters
    near: dict[str, Any] = field(default_factory=dict)  # metrics of bands and comparisons


def deduplicate(
    rules: Sequence[str],
    passed: np.ndarray,
    ranks: np.ndarray,
    keys: dict[str, np.ndarray],
    likeness: Likeness,
) -> Deduplication:
    """Apply the rules over all rows, in order, and find components, even if near duplicates are kept.

    Args:
        passed: bool [n], rows that passed the rules on single rows.
        ranks: int [n], from `preference_ranks`.
        keys: rule (`exact`, `ast`) -> uint64 [n], equal for copies, 0 for a row without a key.
    """
    size = len(passed)
    own = np.arange(size, dtype=np.int32)
    result = Deduplication(own, np.full(size, -1, np.int16), own.copy())
    alive = passed.copy()
    near: NearDuplicateGraph | None = None
    related = Components(size)
    for place, rule in enumerate(rules):
        rows = np.flatnonzero(alive).astype(np.int32)
        if rule == "near":
            near = near_components(alive, likeness)
            kept_for = representatives(near.duplicates.labels[rows], rows, ranks[rows], likeness.near)
        else:
            alike = likeness.renamed if rule == "ast" else None
            kept_for = representatives(key_labels(keys[rule][rows]), rows, ranks[rows], alike)
        sizes = np.bincount(kept_for, minlength=len(rows))
        result.sizes[rule] = cluster_size_counts(sizes)
        is_copy = kept_for != np.arange(len(rows))
        copies, originals = rows[is_copy], rows[kept_for[is_copy]]
        result.representative[copies] = originals
        result.dropped_by[copies] = place
        related.join(copies, originals)
        alive[copies] = False
    if near is None:
        near = near_components(alive, likeness)
    result.near = near_metrics(likeness.settings, near)
    join_related(related, near, alive, keys["ast"], ranks, likeness)
    rows = np.flatnonzero(alive).astype(np.int32)
    result.component[rows] = rows[representatives(related.labels[rows], rows, ranks[rows])]
    return result


def join_related(
    related: Components,
    near: NearDuplicateGraph,
    alive: np.ndarray,
    fingerprints: np.ndarray,
    ranks: np.ndarray,
    likeness: Likeness,
) -> None:
    """Join rows of related texts, of one question, of one parent, and of equal code that is not dropped."""
    rows = np.flatnonzero(alive).astype(np.int32)
    related.join(np.arange(len(alive), dtype=np.int32), near.related.labels)
    for keys in (likeness.questions, likeness.parents):
        if keys is not None:
            having = rows[keys[rows] > 0]
            related.join(having, having[representatives(key_labels(keys[having]), having, ranks[having])])
    labels = key_labels(fingerprints[rows])
    related.join(rows, rows[representatives(labels, rows, ranks[rows], likeness.same_question)])


def cluster_size_counts(sizes: np.ndarray) -> dict[str, int]:
    """Count clusters by size class: "2", "5-9", "100000-"."""
    counts, _ = np.histogram(sizes, [*CLUSTER_SIZES, np.inf])
    names = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(CLUSTER_SIZES)]
    names.append(f"{CLUSTER_SIZES[-1]}-")
    return {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}


def near_metrics(settings: NearDuplicates, near: NearDuplicateGraph) -> dict[str, Any]:
    """Return what the report needs for the S-curve of the bands, and the number of comparisons."""
    bands, rows = configured_bands(settings)
    return {
        "permutations": bands * rows,
        "bands": bands,
        "rows_a_band": rows,
        "threshold": settings.threshold,
        "related": min(settings.related, settings.threshold),
        "pairs_looked_at": near.compared,
        "pairs_kept": near.close_pairs,
    }
