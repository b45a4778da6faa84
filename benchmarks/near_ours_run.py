"""Runs our near-duplicate removal over a Parquet file of texts: `side input output threshold`."""

import sys
from pathlib import Path

import daft  # noqa: F401
import numpy as np
import pyarrow.parquet as pq
import scipy.sparse.csgraph  # noqa: F401

from benchmarks.tell import clock
from stages.clean.duplicates import components, near_pairs, representatives, shingle_words
from stages.clean.settings import NearDuplicates


def main() -> None:
    source, output, threshold = sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
    output.mkdir(exist_ok=True)
    settings = NearDuplicates(threshold=threshold, related=threshold)
    with clock() as taken:
        table = pq.read_table(source)
        pairs = near_pairs([shingle_words(text) for text in table["text"].to_pylist()], settings)
        labels = components(len(table), pairs, threshold)
        kept = np.unique(representatives(labels, np.arange(len(table))))
        pq.write_table(table.take(kept), output / "kept.parquet")
    taken.save(output)
    np.save(output / "labels.npy", labels)


if __name__ == "__main__":
    main()
