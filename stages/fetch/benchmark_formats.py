"""Benchmarks as problems in HumanEval's shape, and the one training source that is stored as an evaluation suite."""

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stages.common.errors import UserError
from stages.common.schema import Problem
from stages.fetch.evalplus import entry_point, plain, plus_problem
from stages.fetch.functions import split
from stages.fetch.origin import File
from stages.fetch.python_module import Unfit
from stages.fetch.settings import Source
from stages.fetch.tables import rows_of

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def problems_of(source: Source, files: Iterable[File]) -> list[Problem]:
    """Problems of a benchmark, in its own order, without the excluded ones.

    Raises:
        UserError: a row lacks a field, a task_id comes twice, an excluded one is not there; names file and row.
    """
    make: Callable[[dict[str, Any]], Problem] = MAKERS[source.format]
    problems: dict[str, Problem] = {}
    for file in files:
        name = file.name
        for number, row in rows_of(file):
            try:
                problem = make(row)
            except (KeyError, TypeError, ValueError, SyntaxError) as error:
                lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{name}, row {number}: no problem of format {source.format}: {lacks}"
                ) from None
            if problem.task_id in problems:
                raise UserError(f"{name}, row {number}: the task_id {problem.task_id} comes twice")
            problems[problem.task_id] = problem
    for task in source.exclude:
        if problems.pop(task, None) is None:
            raise UserError(f"source '{source.name}' excludes {task}, but the benchmark has no such task_id")
    return list(problems.values())


def shaped_problem(row: dict[str, Any]) -> Problem:
    """A row that has HumanEval's fields already."""
    values = [row[name] for name in FIELDS]
    wrong = [name for name, value in zip(FIELDS, values, strict=True) if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be text")
    return Problem(*values)


def mbpp_problem(row: dict[str, Any]) -> Problem:
    """A row of MBPP (Austin et al. 2021), full or sanitized, in HumanEval's shape.

    The prompt is the task's text and its asserts in a docstring, as bigcode-evaluation-harness gives it; the tests call
    the function by its name, so `check` need not use its argument.
    """
    doc = row.get("doc", row)
    sanitized = "text" not in doc
    setup = "\n".join(doc["test_imports"]) if sanitized else doc["test_setup_code"]
    code, setup = plain(doc["code"]).strip("\n"), plain(setup).strip("\n")
    asserts = [plain(test).strip() for test in doc["test_list"]]
    text = plain(doc["prompt" if sanitized else "text"]).strip()
    listed = "\n".join(asserts)
    prompt = f'"""\n{text}\n{listed}\n"""\n'
    name = entry_point(code, asserts)
    body = textwrap.indent(listed, "    ")
    if name == "check":  # two tasks ask for a function of that name, which the tests' own would hide
        setup, body = f"{setup}\nsolution = check".lstrip(), re.sub(r"\bcheck\(", "solution(", body)
    test = f"{setup}\n\n\ndef check(candidate):\n{body}\n".lstrip("\n")
    for piece in (prompt, code, test):
        ast.parse(piece)
    return Problem(f"MBPP/{doc['task_id']}", prompt, name, f"{code}\n", test)


MAKERS = {"humaneval": shaped_problem, "mbpp": mbpp_problem, "evalplus": plus_problem}


def basic_skills(files: Iterable[File], formats: dict[str, int]) -> Iterator[tuple[str, int, str, str]]:
    """File, row, prompt and completion of each distinct question with its right choice; adds to the counts of formats.

    A question ends within the body, often after `return`; what is asked for is moved to the boundary that all
    functions have: signature and docstring in the prompt, the whole body in the completion.

    Raises:
        UserError: a row is not a question with choices, or the two make no function; names file and row.
    """
    seen: set[str] = set()
    for file in files:
        name = file.name
        for number, row in rows_of(file, formats):
            try:
                doc = row["doc"]
                if str(doc["id"]) in seen:
                    continue
                seen.add(str(doc["id"]))
                question, choice = doc["question"], doc["choices"][doc["gold"]]
                gap = "" if question[-1:].isspace() else " "
                prompt, completion = split(f"{question}{gap}{choice}\n")
            except (KeyError, IndexError, TypeError, SyntaxError, Unfit, AssertionError) as error:
                raise UserError(f"{name}, row {number}: no question about a function ({error!r})") from None
            yield name, number, prompt, completion
