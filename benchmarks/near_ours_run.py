"""Runs our near-duplicate removal over a Parquet file of texts: `side input output threshold`."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse.csgraph  # noqa: F401

from benchmarks.tell import clock, memory_at_hand
from stages.clean.duplicates.collisions import collisions
from stages.clean.duplicates.near_duplicates import near_duplicates
from stages.clean.settings import NearDuplicates
from stages.common.engine import SerialEngine

PERMUTATIONS = 64  # candidates are decided by their exact similarity: 16 bands of 4 find 98.8% at 0.7


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
    settings = NearDuplicates(threshold=threshold, related=threshold, permutations=PERMUTATIONS)
    collisions(np.zeros(2, np.uint64), np.arange(2))  # starts Daft
    memory_at_hand()
    with clock() as taken:
        labels = near_duplicates(source, "text", settings, SerialEngine())
        write_kept(source, output / "kept.parquet", labels == np.arange(len(labels)))
    taken.save(output)
    np.save(output / "labels.npy", labels)


if __name__ == "__main__":
    main()
