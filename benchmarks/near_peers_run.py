"""Runs datatrove's or datasketch's near-duplicate removal over a Parquet file of texts: `side input output threshold`.

Runs under the interpreter of the environment that holds them; of ours it imports benchmarks/tell.py alone.
"""

import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.tell import Clock, clock, memory_at_hand

WORDS = re.compile(r"\w+|[^\w\s]+")
SHINGLE = 5


def datatrove(source: Path, output: Path, ours: bool) -> tuple[Clock, np.ndarray]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.word_tokenizers import WordTokenizer
    from loguru import logger

    class Words(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return WORDS.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            raise AssertionError("MinHash asks for words only")

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise AssertionError("MinHash asks for words only")

    logger.remove()
    plain = TextNormConfig(False, False, False, False, False) if ours else TextNormConfig()
    config = MinhashConfig(n_grams=SHINGLE, norm_config=plain)
    reader = ParquetReader(str(source.parent), glob_pattern=source.name)
    signature = MinhashDedupSignature(f"{output}/signatures", config=config)
    if ours:
        signature.word_tokenizer = Words()
    else:
        signature.word_tokenizer.word_tokenize("loads it")

    def step(number: int, pipeline: list, tasks: int = 1) -> None:
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{output}/logs/{number}").run()

    memory_at_hand()
    with clock() as taken:
        step(1, [reader, signature])
        buckets = MinhashDedupBuckets(f"{output}/signatures", f"{output}/buckets", config=config)
        step(2, [buckets], config.num_buckets)
        step(3, [MinhashDedupCluster(f"{output}/buckets", f"{output}/remove", config=config)])
        step(4, [reader, MinhashDedupFilter(f"{output}/remove"), ParquetWriter(f"{output}/kept")])
    named = MinhashDedupCluster(
        f"{output}/buckets", f"{output}/clusters", config=config, save_cluster_id=True
    )
    step(5, [named])  # once more, not timed: its cluster numbers
    labels = np.arange(pq.read_metadata(source).num_rows) + 2**40
    for row, cluster in struct.iter_unpack("<2I", Path(output, "clusters", "000000.clusters").read_bytes()):
        labels[row] = cluster
    kept = sum(pq.read_metadata(path).num_rows for path in Path(output, "kept").glob("*.parquet"))
    assert kept == len(np.unique(labels)), (kept, len(np.unique(labels)))
    return taken, labels


def datasketch(source: Path, output: Path, threshold: float) -> tuple[Clock, np.ndarray]:
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh32_intdigest

    def shingles(text: str) -> list[bytes]:
        words = WORDS.findall(text)
        runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        return [run.encode() for run in runs]

    memory_at_hand()
    with clock() as taken:
        table = pq.read_table(source)
        sketches = MinHash.bulk(
            map(shingles, table["text"].to_pylist()), num_perm=128, hashfunc=xxh32_intdigest
        )
        index = MinHashLSH(threshold=threshold, num_perm=128)
        parent = list(range(len(sketches)))
        for row, sketch in enumerate(sketches):
            for other in index.query(sketch):
                a, b = root(parent, row), root(parent, other)
                if a != b and sketch.jaccard(sketches[other]) >= threshold:
                    parent[max(a, b)] = min(a, b)
            index.insert(row, sketch, check_duplication=False)
        labels = np.array([root(parent, row) for row in range(len(parent))])
        pq.write_table(table.take(np.unique(labels)), output / "kept.parquet")
    return taken, labels


def root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def main() -> None:
    side, source, output, threshold = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    sides: dict[str, Callable[[], tuple[Clock, np.ndarray]]] = {
        "datatrove": lambda: datatrove(source, output, False),
        "datatrove, our words": lambda: datatrove(source, output, True),
        "datasketch": lambda: datasketch(source, output, threshold),
    }
    taken, labels = sides[side]()
    taken.save(output)
    np.save(output / "labels.npy", labels)


if __name__ == "__main__":
    main()
