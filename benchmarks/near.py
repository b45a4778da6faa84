"""Near-duplicate removal: ours, datatrove's MinHash pipeline, datasketch; the same rows, the same exact truth.

All read texts from Parquet and write the rows that stay to Parquet, shingles of 5 words, threshold 0.7. datatrove runs its
four steps in one process with its default 14 buckets of 8 hashes, half of all pairs found at 0.72: with its English
words as users have it, and with our words and no normalisation. datasketch runs 128 permutations, hashes by xxhash,
sketches in bulk, and drops candidates whose estimate is below the threshold. Ours makes bands of at most 64 hashes, as it
decides candidates by their exact similarity. Imports, and what a side loads once, count for nobody, and
each side begins on memory that was in use a moment before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.corpora import corpus_of, text_column
from benchmarks.jaccard import pairs_at_least, shingle_sets
from benchmarks.peers import NEAR, python_of
from benchmarks.tell import Part, ratio
from stages.common.core.files import ROW_GROUP_ROWS

SHINGLE = 5
SIDES = {
    "ours": "benchmarks.near_ours_run",
    "datatrove": "benchmarks.near_peers_run",
    "datatrove, our words": "benchmarks.near_peers_run",
    "datasketch": "benchmarks.near_peers_run",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=1, help="of each side, in turns; the fastest counts")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))


def run(given: argparse.Namespace) -> list[Part]:
    python = python_of("near", *NEAR)
    table = text_column(corpus_of(given.rows))
    truth, counted = truth_of(table["text"].to_pylist(), given.threshold)
    print(
        f"{len(table)} rows; truth: {counted} pairs at {given.threshold} or more, {dropped(truth)} rows to drop"
    )
    print(
        f"{'':<24}{'rows/s/core':>12}{'cpu s':>9}{'wall s':>9}{'drops':>8}{'precision':>11}{'recall':>9}{'F1':>8}"
    )
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table, folder / "rows.parquet", row_group_size=ROW_GROUP_ROWS)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in given.sides}
        for side in given.sides * given.repeats:
            interpreter = Path(sys.executable) if side == "ours" else python
            runs[side].append(run_side(side, interpreter, folder, given.threshold))
        for side in given.sides:
            best = min(runs[side], key=lambda each: each["cpu"])
            best["rate"] = len(table) / best["cpu"]
            best["F1"] = tell(side, best, truth)
            found[side] = best
    return [] if "ours" not in found else parts(found)


def parts(found: dict[str, dict[str, Any]]) -> list[Part]:
    """Ours against each other side."""
    ours = found.pop("ours")
    return [
        Part(
            f"near duplicates, {side}",
            f"{ours['rate']:,.0f} rows/s/core, F1 {ours['F1']:.3f}",
            f"{other['rate']:,.0f} rows/s/core, F1 {other['F1']:.3f}",
            ratio(ours["rate"], other["rate"]),
            "10x, F1 no lower",
        )
        for side, other in found.items()
    ]


def run_side(side: str, python: Path, folder: Path, threshold: float) -> dict[str, Any]:
    """What a side says of itself, with its labels: a cluster number for each row."""
    output = folder / side.replace(", ", "-").replace(" ", "-")
    command = [
        str(python),
        "-m",
        SIDES[side],
        side,
        str(folder / "rows.parquet"),
        str(output),
        str(threshold),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr[-2000:]}")
    return {**json.loads((output / "cost.json").read_text()), "labels": np.load(output / "labels.npy")}


def truth_of(texts: Sequence[str], threshold: float) -> tuple[np.ndarray, int]:
    """Exact clusters, and how many pairs they come of."""
    left, right, _ = pairs_at_least(shingle_sets(texts, SHINGLE), threshold)
    return clusters(len(texts), left, right), len(left)


def clusters(size: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def dropped(labels: np.ndarray) -> int:
    """One row of each cluster stays."""
    return len(labels) - len(np.unique(labels))


def agreement(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(precision, recall) over pairs of rows that share a cluster."""
    both = pairs_within(np.unique(np.stack([labels, truth]), axis=1, return_counts=True)[1])
    ours, theirs = (pairs_within(np.unique(each, return_counts=True)[1]) for each in (labels, truth))
    return both / ours if ours else 1.0, both / theirs if theirs else 1.0


def pairs_within(sizes: np.ndarray) -> int:
    return int((sizes.astype(np.int64) * (sizes - 1) // 2).sum())


def tell(side: str, cost: dict[str, Any], truth: np.ndarray) -> float:
    precision, recall = agreement(cost["labels"], truth)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    print(
        f"{side:<24}{cost['rate']:>12,.0f}{cost['cpu']:>9.2f}{cost['wall']:>9.2f}{dropped(cost['labels']):>8}"
        f"{precision:>11.3f}{recall:>9.3f}{f1:>8.3f}",
        flush=True,
    )
    return f1
