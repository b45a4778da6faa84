"""Rows of data/raw and data/clean, and problems of data/benchmarks: one schema for all stages."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def row_schema() -> "pa.Schema":
    """Columns of data/raw/rows.parquet.

    A row is single-turn (`prompt` and `completion` set, `messages` null) or a conversation (`messages` set,
    the other two null). `prompt` may be empty: plain text, all of it trained on.
    """
    import pyarrow as pa

    message = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),  # content id: hex, unique in the file, its sort key
            pa.field("source", pa.string(), nullable=False),  # name of the source in conf/fetch
            pa.field("licence", pa.string(), nullable=False),  # SPDX id
            pa.field("prompt", pa.string()),
            pa.field("completion", pa.string()),
            pa.field("messages", pa.list_(message)),  # roles: system, user, assistant, tool
            pa.field("tests", pa.string()),  # Python source that checks the row, or null
            pa.field("metadata", pa.string(), nullable=False),  # JSON object, sorted keys: path, line, ...
        ]
    )


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark, in HumanEval's shape; a line of data/benchmarks/<name>.jsonl.

    The whole program is `prompt + completion + "\\n" + test + "\\n" + check(entry_point)`.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str  # defines check(candidate)
