"""Reads a benchmark: data/benchmarks/<name>.jsonl, or any file in HumanEval's shape."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_jsonl
from stages.common.schema import Problem
from stages.judge.oracles import ORACLES

FOLDER = Path("data/benchmarks")


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where a benchmark lies: a name is a file of `folder`, and what ends in .jsonl or .jsonl.gz is a path."""
    return Path(name) if is_file_name(name) else folder / f"{name}.jsonl"


def is_file_name(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz"))


def load(name: str, folder: Path = FOLDER) -> list[Problem]:
    """The problems of a benchmark, in its own order.

    Args:
        name: a file of `folder` without suffix, or a path that ends in .jsonl or .jsonl.gz.
        folder: where benchmarks lie.

    Raises:
        UserError: no such benchmark (says which there are), a cut line, a missing field, no problem, a task twice.
    """
    path = path_of(name, folder)
    if not path.exists():
        there = sorted(p.stem for p in folder.glob("*.jsonl"))
        have = (
            f"{folder} holds {', '.join(there)}"
            if there
            else f"{folder} is empty: `dvc repro fetch` fills it"
        )
        raise UserError(f"evaluate.benchmark is {name!r}, but there is no {path}; {have}")
    problems = [problem(row, f"{path}, problem {i}") for i, row in enumerate(read_jsonl(path), 1)]
    if not problems:
        raise UserError(f"{path} holds no problem")
    seen = set[str]()
    for one in problems:
        if one.task_id in seen:
            raise UserError(f"{path}: the task_id {one.task_id!r} comes twice")
        seen.add(one.task_id)
    return problems


def problem(row: Any, place: str) -> Problem:
    """A row as a Problem; fields that a Problem has not are left out."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object")
    known = {f.name: row.get(f.name, f.default) for f in fields(Problem)}
    for name, value in known.items():
        if not isinstance(value, int | float if name == "atol" else str):
            raise UserError(f"{place}: {name} is missing or no {'number' if name == 'atol' else 'text'}")
    if known["oracle"] not in ORACLES:
        raise UserError(f"{place}: oracle is {known['oracle']!r}: expected one of {', '.join(ORACLES)}")
    return Problem(**known)
