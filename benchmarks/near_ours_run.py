"""Runs our near-duplicate removal over a Parquet file of texts: `side input output threshold`.

A text is the answer of a row without a question. The labels are the components that the benchmark's exact truth has; the
rows written are those that the stage keeps.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas  # noqa: F401  # pyarrow and scipy import these when they are first used
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import scipy.sparse.csgraph  # noqa: F401

from benchmarks.tell import clock, memory_at_hand
from stages.clean.duplicates.deduplicate import preference_ranks
from stages.clean.duplicates.near_duplicates import Likeness, near_components, representatives
from stages.clean.duplicates.signatures import sign, write_shingles
from stages.clean.settings import NearDuplicates
from stages.common.engine import SerialEngine


def components_and_kept(
    source: Path, scratch: Path, settings: NearDuplicates
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's component, and the rows that are kept."""
    file = pq.ParquetFile(source)
    counts, lengths = [], []
    for number in range(file.num_row_groups):
        texts = file.read_row_group(number, ["text"]).column(0).to_pylist()
        counts.append(write_shingles(scratch, number, [("", text) for text in texts]))
        lengths += map(len, texts)
    rows, sizes = np.arange(len(lengths)), np.array(lengths)
    likeness = Likeness(
        sign(SerialEngine(), scratch, counts, settings), np.zeros(len(rows), np.uint64), settings
    )
    labels = near_components(np.ones(len(rows), bool), likeness).duplicates.labels
    ranks = preference_ranks(np.zeros(len(rows), bool), np.stack([sizes, sizes], axis=1))
    return labels, representatives(labels, rows, ranks, likeness.near) == rows


def write_kept(source: Path, target: Path, kept: np.ndarray) -> None:
    """A row group at a time, as the stage does."""
    file = pq.ParquetFile(source)
    first = 0
    with pq.ParquetWriter(target, file.schema_arrow) as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            writer.write_table(table.filter(pa.array(kept[first : first + len(table)])))
            first += len(table)


def main() -> None:
    source, output, threshold = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    output.mkdir(exist_ok=True)
    settings = NearDuplicates(threshold=threshold, related=threshold)
    memory_at_hand()
    with clock() as taken, TemporaryDirectory(dir=output) as scratch:
        labels, kept = components_and_kept(source, Path(scratch), settings)
        write_kept(source, output / "kept.parquet", kept)
    taken.save(output)
    np.save(output / "labels.npy", labels)


if __name__ == "__main__":
    main()
