"""The schemas of rows (data/raw, data/clean) and benchmark problems, shared by all stages."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

BENCHMARK_FOLDER = Path("data/benchmarks")
PROBLEM_KINDS = ("function", "infill", "literal", "script")


def row_schema() -> "pa.Schema":
    """Return the columns of data/raw/rows.parquet.

    A row is single-turn (`prompt` and `completion` set, `messages` null) or a conversation (`messages` set,
    the other two null). An empty `prompt` means plain text, all of which is trained on.

    A turn's `extra` is null, or a JSON object (sorted keys) of what else the turn has: `tool_calls` (a list in
    OpenAI's form, arguments parsed), `tool_call_id`, `name`, `reasoning_content`, and `train`: false for an
    answer that is context and no target. The content of a turn of tool calls alone is "".
    """
    import pyarrow as pa

    message = pa.struct([pa.field(name, pa.string()) for name in ("role", "content", "extra")])
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),  # hash of the content in hex, unique in the file
            pa.field("source", pa.string(), nullable=False),  # name of the source in conf/fetch
            pa.field("licence", pa.string(), nullable=False),  # SPDX id
            pa.field("prompt", pa.string()),
            pa.field("completion", pa.string()),
            pa.field("messages", pa.list_(message)),  # roles: system, user, assistant, tool
            pa.field("tools", pa.string()),  # JSON list of the tools that a conversation may call, or null
            pa.field("tests", pa.string()),  # Python source that tests the completion, or null
            pa.field("metadata", pa.string(), nullable=False),  # JSON object, sorted keys: path, line, ...
        ]
    )


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark, in HumanEval's format; a line of data/benchmarks/<name>.jsonl.

    The test program is `prompt + completion + "\\n" + test + "\\n" + check(entry_point)`. If there are
    `inputs` (HumanEval+, MBPP+), the entry point is called with each instead, and its result compared with
    the expected one. Other kinds: `infill` (the completion stands between prompt and suffix), `literal` (it is
    a value, compared with `expected`; nothing runs), `script` (a program; inputs and expected are what it reads
    and writes).
    """

    task_id: str
    prompt: str
    # Of a function, or of a class's method: Solution.solve
    entry_point: str
    # "": the benchmark has none
    canonical_solution: str
    # Defines check(candidate); unused if there are inputs.
    test: str
    # A list of argument lists, as a Python literal in which inf, nan and set() are allowed.
    inputs: str = ""
    # A list of the expected results, written likewise; "": the results of the canonical solution.
    expected: str = ""
    # Absolute tolerance of numbers; 0: exact, but 1e-6 where floats are expected.
    atol: float = 0.0
    # How a result is compared; a name in stages/judge/oracles.py.
    oracle: str = "equal"
    # One of PROBLEM_KINDS
    kind: str = "function"
    # What the model reads, where that is not the prompt
    question: str = ""
    # Kind infill: what follows the completion
    suffix: str = ""
    # task_id of the problem that several are versions of
    parent: str = ""

    @property
    def solved(self) -> str:
        """The prompt with the canonical solution in its place."""
        return self.prompt + ("" if self.kind == "literal" else self.canonical_solution) + self.suffix

    def row(self) -> dict[str, Any]:
        """Return the JSON object of the problem's line, without fields that have their default."""
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def problem_cluster(benchmark: str, task_id: str, parent: str = "") -> str:
    """Return what problems that are versions of one share: a parent, or a named task_id (HumanEval/0, in HumanEval+ too)."""
    return (parent or (task_id if "/" in task_id else f"{benchmark}/{task_id}")).casefold()
