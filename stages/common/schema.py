"""Rows of data/raw and data/clean, and problems of data/benchmarks: one schema for all stages."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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

    The whole program is `prompt + completion + "\\n" + test + "\\n" + check(entry_point)`. Where there are `inputs`
    (HumanEval+, MBPP+), each is a call of the entry point, and its answer is compared with the one expected.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str  # defines check(candidate); not used where there are inputs
    inputs: str = ""  # a list of argument lists, as a Python literal with inf, nan and set() allowed
    expected: str = ""  # a list of their answers, the same way; "": those of the canonical solution
    atol: float = 0.0  # absolute tolerance of numbers; 0: exact, but 1e-6 where floats are expected
    oracle: str = "equal"  # how an answer is compared; names in stages/judge/answer_checks.py

    def row(self) -> dict[str, Any]:
        """The line's object: fields that say nothing are left out."""
        absent = {"inputs": "", "expected": "", "atol": 0.0, "oracle": "equal"}
        return {key: value for key, value in asdict(self).items() if absent.get(key) != value}
