"""Benchmark problems as training rows, each in the benchmark's own words and, if it can be, as a documented function."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.settings import Source, task_ranges
from stages.fetch.source_file import SourceFile

INDENT = " " * 4


def chosen_problems(source: Source, files: Iterable[SourceFile]) -> list[Problem]:
    """Return the benchmark's problems that `tasks` names, all if it is empty.

    Raises:
        UserError: see `parse_benchmark`; or `tasks` names none.
    """
    problems = parse_benchmark(source, files)
    if not source.tasks:
        return problems
    ranges = task_ranges(source.tasks)
    numbers = [int(found[0]) if (found := re.search(r"\d+$", one.task_id)) else -1 for one in problems]
    chosen = [one for one, n in zip(problems, numbers, strict=True) if any(n in each for each in ranges)]
    if not chosen:
        raise UserError(
            f"source '{source.name}': tasks: {source.tasks} names none of its {len(problems)} problems, whose "
            f"numbers are from {min(numbers)} to {max(numbers)}."
        )
    return chosen


def problem_rows(source: Source, files: Iterable[SourceFile]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the columns and the metadata of each problem's rows; `parent` is its task_id.

    Raises:
        UserError: see `chosen_problems`; or a problem is no function, or has no canonical solution.
    """
    for problem in chosen_problems(source, files):
        if problem.kind != "function":
            raise UserError(
                f"source '{source.name}': {problem.task_id} is of kind {problem.kind}, and rows are made of functions "
                "with a solution only. Take another benchmark for training."
            )
        if not problem.canonical_solution.strip():
            raise UserError(
                f"source '{source.name}': {problem.task_id} has no canonical solution to train on. List it in "
                "`exclude`, or take another benchmark."
            )
        tests = f"{problem.test}\ncheck({problem.entry_point})\n" if problem.test else None
        renderings = {"benchmark": (problem.question or problem.prompt, problem.canonical_solution)}
        if function := documented_function(problem):
            renderings["function"] = function
        for name, (prompt, completion) in renderings.items():
            columns = {"prompt": prompt, "completion": completion, **({"tests": tests} if tests else {})}
            yield (
                columns,
                json.dumps({"parent": problem.parent or problem.task_id, "rendering": name}, sort_keys=True),
            )


def documented_function(problem: Problem) -> tuple[str, str] | None:
    """Return signature and docstring, with the prompt's asserts as examples, and the body.

    None unless the prompt is one docstring with such asserts, and the solution ends in its entry point.
    """
    match = re.fullmatch(r'"""((?:(?!""").)*)"""', problem.prompt.strip(), re.S)
    lines = match[1].strip().split("\n") if match else []
    examples = [text for line in lines for text in call_and_result(line, problem.entry_point)]
    code = problem.canonical_solution
    last = ast.parse(code).body[-1]
    if not examples or not isinstance(last, ast.FunctionDef) or last.name != problem.entry_point:
        return None
    if last.decorator_list or ast.get_docstring(last) is not None:
        return None
    if last.body[0].lineno == last.lineno or last.body[0].col_offset != len(INDENT) or "\t" in code:
        code = ast.unparse(ast.parse(code))  # tabs, and indents of another width; loses comments
        (*_, last) = ast.parse(code).body
    text = [*(line.strip() for line in lines if not line.lstrip().startswith("assert")), *examples]
    quotes = 'r"""' if "\\" in "".join(text) else '"""'
    docstring = f"{INDENT}{quotes}" + f"\n{INDENT}".join([*text, '"""'])
    first = last.body[0]  # type: ignore[attr-defined]
    start = min(part.lineno for part in (first, *getattr(first, "decorator_list", ())))
    code_lines = [line.rstrip() for line in code.rstrip().split("\n")]
    while code_lines[start - 2].lstrip().startswith("#"):  # a comment that opens the body
        start -= 1
    prompt = "\n".join([*code_lines[: start - 1], docstring]) + "\n"
    completion = "\n".join(code_lines[start - 1 :]) + "\n"
    try:
        ast.parse(prompt + completion)
    except SyntaxError:
        return None
    return prompt, completion


def call_and_result(line: str, name: str) -> list[str]:
    """Return an example of doctest for `assert name(...) == literal`; nothing for other lines."""
    try:
        (statement,) = ast.parse(line.strip()).body
    except (SyntaxError, ValueError):
        return []
    test = statement.test if isinstance(statement, ast.Assert) else None
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq) or len(test.ops) > 1:
        return []
    call, (result,) = test.left, test.comparators
    is_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name
    try:
        ast.literal_eval(result)
    except (ValueError, TypeError):
        return []
    return [f">>> {ast.unparse(call)}", ast.unparse(result)] if is_call else []
