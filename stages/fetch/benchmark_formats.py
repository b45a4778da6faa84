"""Parse benchmarks into problems in HumanEval's format."""

import ast
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_shapes import (
    crux_problem,
    evolved_problem,
    fix_docs_problem,
    fix_problem,
    infill_problem,
    live_problem,
)
from stages.fetch.evalplus import entry_point, plain_lines, plus_problem
from stages.fetch.settings import Source
from stages.fetch.source_file import SourceFile
from stages.fetch.tables import stream_strict_rows

HUMANEVAL_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def parse_benchmark(source: Source, files: Iterable[SourceFile]) -> list[Problem]:
    """Return a benchmark's problems in their order, without the excluded ones.

    Raises:
        UserError: a row is not a problem, a task_id is repeated, or an excluded one does not exist; names
            file and row.
    """
    parse: Callable[[dict[str, Any]], Problem] = PROBLEM_PARSERS[source.format]
    problems: dict[str, Problem] = {}
    for file in files:
        name = file.name
        for number, row in stream_strict_rows(file):
            day = str(row.get("contest_date", ""))[:10]
            if (source.since or source.until) and not source.since <= day <= (source.until or "9999"):
                continue
            try:
                problem = parse(row)
            except (KeyError, TypeError, ValueError, SyntaxError) as error:
                detail = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{name}, row {number}: not a problem in format {source.format}: {detail}"
                ) from None
            if problem.task_id in problems:
                raise UserError(
                    f"{name}, row {number}: the task_id {problem.task_id} is repeated; each must be unique"
                )
            problems[problem.task_id] = problem
    for task in source.exclude:
        if problems.pop(task, None) is None:
            raise UserError(
                f"source '{source.name}' excludes {task}, but the benchmark has no such task_id. Remove it."
            )
    return list(problems.values())


def humaneval_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row with HumanEval's fields."""
    values = [row[name] for name in HUMANEVAL_FIELDS]
    wrong = [name for name, value in zip(HUMANEVAL_FIELDS, values, strict=True) if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be text")
    return Problem(*values)


def mbpp_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of MBPP (Austin et al. 2021), full or sanitized.

    The prompt is the task's text and its asserts in a docstring, as in bigcode-evaluation-harness. The tests
    call the function by its name, so `check` ignores its argument.
    """
    doc = row.get("doc", row)
    sanitized = "text" not in doc
    setup = "\n".join(doc["test_imports"]) if sanitized else doc["test_setup_code"]
    code, setup = plain_lines(doc["code"]).strip("\n"), plain_lines(setup).strip("\n")
    asserts = [plain_lines(test).strip() for test in doc["test_list"]]
    text = plain_lines(doc["prompt" if sanitized else "text"]).strip()
    listed = "\n".join(asserts)
    prompt = f'"""\n{text}\n{listed}\n"""\n'
    name = entry_point(code, asserts)
    body = textwrap.indent(listed, "    ")
    if name == "check":  # as in two tasks; the test's own `check` would shadow it
        setup, body = f"{setup}\nsolution = check".lstrip(), re.sub(r"\bcheck\(", "solution(", body)
    test = f"{setup}\n\n\ndef check(candidate):\n{body}\n".lstrip("\n")
    for piece in (prompt, code, test):
        ast.parse(piece)
    return Problem(f"MBPP/{doc['task_id']}", prompt, name, f"{code}\n", test)


PROBLEM_PARSERS = {
    "humaneval": humaneval_problem,
    "mbpp": mbpp_problem,
    "evalplus": plus_problem,
    "evoeval": evolved_problem,
    "humanevalfix": fix_problem,
    "humanevalfix-docs": fix_docs_problem,
    "cruxeval": crux_problem,
    "infilling": infill_problem,
    "livecodebench": live_problem,
}
