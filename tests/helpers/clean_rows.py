"""Rows and problems for the tests of clean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.clean.row import RowView, make_row
from stages.clean.screen import PLAIN_RULES
from stages.clean.settings import CleanSettings
from stages.common.core.files import write_jsonl, write_parquet
from stages.common.rows.schema import row_schema


def record(name: str, prompt: str | None, completion: str | None, **others: Any) -> dict[str, Any]:
    """A record of `row_schema()`; `name` is its id."""
    fields = {
        "id": name,
        "source": "made",
        "licence": "MIT",
        "messages": None,
        "tools": None,
        "tests": None,
        "metadata": "{}",
    }
    return {**fields, "prompt": prompt, "completion": completion, **others}


def row(completion: str, prompt: str = "", layout: str = "whole", **others: Any) -> RowView:
    return make_row(record("r", prompt, completion, **others), layout)


def conversation(*turns: tuple[str, str]) -> RowView:
    messages = [{"role": role, "content": content} for role, content in turns]
    return make_row(record("r", None, None, messages=messages), "whole")


def rule_of(name: str, settings: CleanSettings) -> Callable[[RowView], str | None]:
    return PLAIN_RULES.get(name) or getattr(settings, name)


def problem(task_id: str, prompt: str, entry_point: str, solution: str) -> dict[str, str]:
    return {
        "task_id": task_id,
        "prompt": prompt,
        "entry_point": entry_point,
        "canonical_solution": solution,
        "test": "def check(candidate):\n    pass\n",
    }


RUNS = problem(
    "Tiny/0",
    "from typing import List\n\n\ndef longest_run(values: List[int]) -> int:\n"
    '    """Return the length of the longest run of equal neighbours in a list of whole numbers.\n\n'
    '    >>> longest_run([1, 1, 2])\n    2\n    """\n',
    "longest_run",
    "    best = current = 0\n    previous = None\n    for value in values:\n"
    "        current = current + 1 if value == previous else 1\n        previous = value\n"
    "        best = max(best, current)\n    return best\n",
)
CLAMP = problem(
    "Tiny/1", 'def clamp(x, low, high):\n    """Clamp x."""\n', "clamp", "    return max(low, min(x, high))\n"
)


def write_inputs(folder: Path, records: list[dict[str, Any]], problems: list[dict[str, str]]) -> None:
    """data/raw and data/benchmarks below `folder`."""
    table = pa.Table.from_pylist(sorted(records, key=lambda r: r["id"]), schema=row_schema())
    write_parquet(folder / "data/raw/rows.parquet", table)
    write_jsonl(folder / "data/benchmarks/tiny.jsonl", problems)
