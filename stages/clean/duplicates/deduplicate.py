"""Rules over all rows: exact copies, alpha-renamed copies, near duplicates; and which rows belong together."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from stages.clean.duplicates.near_duplicates import (
    Components,
    Near,
    Signatures,
    bands_of,
    near_components,
    representatives,
)
from stages.clean.settings import NearDuplicates

SIZES = (
    2,
    3,
    4,
    5,
    10,
    20,
    50,
    100,
    1000,
    10_000,
    100_000,
)  # cluster sizes counted together: from each to the next


def normalized(text: str) -> str:
    """Text in which exact copies are equal: NFC, no blank lines, no white space at the end of lines."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join([line.rstrip() for line in lines if not line.isspace() and line])


def text_digest(text: str) -> bytes:
    """128 bits of the normalized text."""
    return hashlib.sha256(normalized(text).encode("utf-8", "surrogatepass")).digest()[:16]


def equal_groups(keys: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Position of the row that stands for each row: of those with the same key the one with the lowest rank.

    Args:
        keys: uint64 [n, 2]; a key of zeros stands for itself alone.
        ranks: int [n], all different; the best row of a group has the lowest.
    """
    order = np.lexsort((ranks, keys[:, 1], keys[:, 0]))
    keys = keys[order]
    new = np.ones(len(order), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1) | ~keys[1:].any(axis=1)
    chosen = np.empty(len(order), np.int32)
    chosen[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    return chosen


def ranks_of(validated: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int [n]: 0 for the row that is kept before all others: validated, then longer, then lower id.

    The completion's length goes first: a one-line wrapper whose prompt holds the function it calls is the
    longer text, but the function itself is what there is to learn.

    Args:
        validated: bool [n]: its tests passed, or, where none were run, it has some.
        sizes: int [n, 2]: characters of the completion and of the whole text. Rows come sorted by id.
    """
    order = np.lexsort((-sizes[:, 1], -sizes[:, 0], ~validated))  # stable: ids ascend
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return ranks


@dataclass
class Deduplicated:
    """What became of rows; all arrays by row number."""

    stands_for: np.ndarray  # int32, the row that is kept for a dropped one; itself for the others
    rule: np.ndarray  # int16, place in the rules over all rows of the one that dropped it; -1: none
    component: np.ndarray  # int32, the representative of a kept row's component
    clusters: dict[str, int] = field(default_factory=dict)  # rule -> groups of more than one row
    largest: dict[str, int] = field(default_factory=dict)  # rule -> rows of its largest group
    sizes: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # rule -> groups by the number of their rows
    near: dict[str, Any] = field(default_factory=dict)  # bands, comparisons


def deduplicate(
    rules: Sequence[str],
    passed: np.ndarray,
    ranks: np.ndarray,
    keys: dict[str, np.ndarray],
    signatures: Signatures,
    settings: NearDuplicates,
) -> Deduplicated:
    """Apply the rules over all rows, in order. Components are worked out whether or not near duplicates are dropped.

    Args:
        passed: bool [n], rows that no rule on single rows dropped.
        ranks: int [n], as of `ranks_of`.
        keys: uint64 [n, 2] of `exact` and `ast`.
    """
    size = len(passed)
    own = np.arange(size, dtype=np.int32)
    result = Deduplicated(own, np.full(size, -1, np.int16), own.copy())
    alive = passed.copy()
    near: Near | None = None
    related = Components(size)
    for place, rule in enumerate(rules):
        rows = np.flatnonzero(alive).astype(np.int32)
        if rule == "near":
            near = near_components(signatures, alive, settings)
            chosen = representatives(near.same.of[rows], ranks[rows])
        else:
            chosen = equal_groups(keys[rule][rows], ranks[rows])
        sizes = np.bincount(chosen, minlength=len(rows))
        result.clusters[rule] = int((sizes > 1).sum())
        result.largest[rule] = int(sizes.max(initial=0))
        result.sizes[rule] = histogram(sizes)
        gone = chosen != np.arange(len(rows))
        result.stands_for[rows[gone]] = rows[chosen[gone]]
        result.rule[rows[gone]] = place
        related.join(rows[gone], rows[chosen[gone]])
        alive[rows[gone]] = False
    if near is None:
        near = near_components(signatures, alive, settings)
    result.near = described(settings, near)
    assign_components(result, related, near, alive, keys["ast"], ranks)
    return result


def assign_components(
    result: Deduplicated,
    related: Components,
    near: Near,
    alive: np.ndarray,
    fingerprints: np.ndarray,
    ranks: np.ndarray,
) -> None:
    """Name each kept row's component: related texts, and equal code where that is not dropped."""
    rows = np.flatnonzero(alive).astype(np.int32)
    related.join(np.arange(len(alive), dtype=np.int32), near.related.of)
    related.join(rows, rows[equal_groups(fingerprints[rows], ranks[rows])])
    result.component[rows] = rows[representatives(related.of[rows], ranks[rows])]


def histogram(sizes: np.ndarray) -> dict[str, int]:
    """Clusters by the number of their rows: "2", "5-9", "100000-"."""
    counts, _ = np.histogram(sizes, [*SIZES, np.inf])
    names = [str(least) if most == least + 1 else f"{least}-{most - 1}" for least, most in pairwise(SIZES)]
    return {name: int(count) for name, count in zip([*names, f"{SIZES[-1]}-"], counts, strict=True) if count}


def described(settings: NearDuplicates, near: Near) -> dict[str, Any]:
    """What the report needs for the S-curve of the bands, and what was compared."""
    bands, rows = bands_of(settings)
    return {
        "permutations": bands * rows,
        "bands": bands,
        "rows_a_band": rows,
        "threshold": settings.threshold,
        "related": min(settings.related, settings.threshold),
        "pairs_looked_at": near.looked_at,
        "pairs_kept": near.pairs,
    }
