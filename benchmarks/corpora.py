"""Generated corpora, kept under .cache/benchmarks: made once for a number of rows and a version of the generator."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpus, grammar
from benchmarks.peers import FOLDER
from stages.clean.contamination.decontaminate import read_problems
from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem

BENCHMARKS = Path("data/benchmarks")
SEED = 0


def corpus_of(rows: int) -> Path:
    """The Parquet file of that many rows, in data/raw's schema."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (corpus, grammar))
    path = FOLDER / f"corpus-{rows}-{hashlib.sha256(code).hexdigest()[:8]}.parquet"
    if not path.exists():
        print(f"writing {path}", flush=True)
        corpus.write_corpus(path, rows, SEED, humaneval())
    return path


def humaneval() -> list[Problem]:
    """Problems that the corpus takes pieces of.

    Raises:
        UserError: data/benchmarks holds no HumanEval.
    """
    problems = [problem for name, problem in read_problems(BENCHMARKS) if name == "humaneval"]
    if not problems:
        raise UserError(f"{BENCHMARKS} holds no humaneval.jsonl. Run `dvc repro fetch`.")
    return problems


def text_column(path: Path) -> pa.Table:
    """(id, text): prompt and completion together, or the turns of a conversation a line each."""
    texts: list[str] = []
    ids: list[pa.Array] = []
    for batch in pq.ParquetFile(path).iter_batches(columns=["id", "prompt", "completion", "messages"]):
        ids.append(batch.column("id"))
        for row in batch.select(["prompt", "completion", "messages"]).to_pylist():
            turns = row["messages"]
            texts.append(
                (row["prompt"] or "") + (row["completion"] or "")
                if turns is None
                else "\n".join(turn["content"] for turn in turns)
            )
    return pa.table({"id": pa.concat_arrays(ids), "text": texts})
