"""Read a benchmark: data/benchmarks/<name>.jsonl, or any file in HumanEval's shape."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl
from stages.common.rows.schema import BENCHMARK_FOLDER, PROBLEM_KINDS, Problem
from stages.judge.oracles import ANSWER_CHECKS


def benchmark_path(name: str, folder: Path = BENCHMARK_FOLDER) -> Path:
    """Return the path of a benchmark: `name` itself if it is a file name, else its file in `folder`."""
    return Path(name) if is_file_name(name) else folder / f"{name}.jsonl"


def is_file_name(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz"))


def load_benchmark(name: str, folder: Path = BENCHMARK_FOLDER) -> list[Problem]:
    """Return the problems of a benchmark, a name in `folder` or a file of its own, in its own order.

    Raises:
        UserError: no such benchmark (lists those that exist), a truncated line, a missing field, no problems, a
            duplicate task_id.
    """
    path = benchmark_path(name, folder)
    if not path.exists():
        existing = sorted(p.stem for p in folder.glob("*.jsonl"))
        if existing:
            hint = f"{folder} holds {', '.join(existing)}"
        else:
            hint = f"{folder} is empty: `dvc repro fetch` fills it"
        raise UserError(f"the benchmark {name} is missing: there is no {path}; {hint}")
    problems = [parse_problem(row, f"{path}, problem {i}") for i, row in enumerate(read_jsonl(path), 1)]
    if not problems:
        raise UserError(f"{path} holds no problems. Expected a JSON object per line")
    seen = set[str]()
    for problem in problems:
        if problem.task_id in seen:
            raise UserError(f"{path}: duplicate task_id {problem.task_id!r}. Remove one of the two lines")
        seen.add(problem.task_id)
    return problems


def parse_problem(row: Any, place: str) -> Problem:
    """Return a row as a Problem, without the fields that a Problem does not have."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object")
    if isinstance(row.get("task_id"), int):
        row = {**row, "task_id": str(row["task_id"])}
    known = {f.name: row.get(f.name, f.default) for f in fields(Problem)}
    for name, value in known.items():
        expected, kinds = ("a number", int | float) if name == "atol" else ("text", str)
        if not isinstance(value, kinds):
            raise UserError(f"{place}: {name} is missing or not {expected}")
    if known["oracle"] not in ANSWER_CHECKS:
        raise UserError(f"{place}: oracle is {known['oracle']!r}, expected one of {', '.join(ANSWER_CHECKS)}")
    if known["kind"] not in PROBLEM_KINDS:
        raise UserError(f"{place}: kind is {known['kind']!r}, expected one of {', '.join(PROBLEM_KINDS)}")
    return Problem(**known)
