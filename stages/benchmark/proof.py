"""Prove that problems are problems: solved by the code, not by a stub, and kept out of training by the rules."""

import ast
import doctest
from collections import Counter
from collections.abc import Sequence

from stages.benchmark.held_out import OwnFunction
from stages.benchmark.own_tests import OwnTest, check_program
from stages.clean.contamination.decontaminate import CONTAMINATION_CHECKS, ProblemIndex
from stages.clean.row import RowView
from stages.clean.settings import Contamination
from stages.common.rows.schema import Problem
from stages.judge.pool import Pool
from stages.judge.verdict import Submission, Verdict

STUBS = ("    pass\n", "    raise NotImplementedError\n")


def problem_of(function: OwnFunction, name: str, tests: Sequence[OwnTest]) -> Problem:
    prompt, solution = function.row.prompt, function.row.completion
    task = f"{name}/{function.place}"
    return Problem(task, with_first_examples(prompt), function.node.name, solution, check_program(tests))


def with_first_examples(prompt: str) -> str:
    """Return a prompt whose docstring keeps its first examples: half, and to the first call. All are tested."""
    function = ast.parse(prompt).body[-1]
    text = function.body[0]  # type: ignore[attr-defined]
    lines, words = prompt.split("\n"), str(text.value.value).split("\n")
    if len(words) != text.end_lineno - text.lineno + 1:  # escapes make other lines than the source has
        return prompt
    try:
        examples = doctest.DocTestParser().get_examples(text.value.value)
    except ValueError:  # prose that looks like examples
        return prompt
    calls = (i for i, one in enumerate(examples) if f"{function.name}(" in one.source)  # type: ignore[attr-defined]
    shown = max((len(examples) + 1) // 2, next(calls, 0) + 1)
    dropped = {
        text.lineno - 1 + example.lineno + line
        for example in examples[shown:]
        for line in range(example.source.count("\n") + example.want.count("\n"))
    } - {text.end_lineno - 1}  # with the closing quotes
    kept = "\n".join(line for number, line in enumerate(lines) if number not in dropped)
    return kept if examples and not lines[text.end_lineno - 1].strip(" \"'rR") else prompt


def proven_problems(
    name: str,
    candidates: Sequence[tuple[OwnFunction, Sequence[OwnTest]]],
    sources: dict[str, str],
    pool: Pool,
    reasons: Counter[str],
) -> list[tuple[OwnFunction, Problem]]:
    """Return functions with their problem, tested by those tests that the function itself passes.

    Raises:
        UserError: the judge itself failed.
    """
    solved = solved_by_itself(name, candidates, pool, reasons)
    locked = []
    for function, problem in solved:
        if is_kept_out(name, problem, function, sources[function.path]):
            locked.append((function, problem))
        else:
            reasons["is too short for the rules that keep it out of training"] += 1
    stubbed = pool.judge_all(
        [Submission(problem, stub, test_in_sandbox=True) for _, problem in locked for stub in STUBS]
    )
    tested = []
    for place, one in enumerate(locked):
        if any(v.verdict == "passed" for v in stubbed[len(STUBS) * place :][: len(STUBS)]):
            reasons["has tests that a body of `pass` or NotImplementedError passes"] += 1
        else:
            tested.append(one)
    judged = pool.judge_all([Submission(problem, problem.canonical_solution) for _, problem in tested])
    for verdict in judged:
        if not is_judgeable(verdict):
            reasons[f"passes its tests within the sandbox only: {verdict.verdict}"] += 1
    return [one for one, verdict in zip(tested, judged, strict=True) if is_judgeable(verdict)]


def is_judgeable(verdict: Verdict) -> bool:
    """Return whether evaluate can judge answers: from outside the sandbox, or beside their test as the self-test does."""
    return verdict.verdict in ("passed", "unsupported_value")


def solved_by_itself(
    name: str,
    candidates: Sequence[tuple[OwnFunction, Sequence[OwnTest]]],
    pool: Pool,
    reasons: Counter[str],
) -> list[tuple[OwnFunction, Problem]]:
    """Run each test alone on the function, and return the problems of the tests that pass."""
    alone = [problem_of(function, name, [test]) for function, tests in candidates for test in tests]
    verdicts = iter(pool.judge_all([Submission(one, one.canonical_solution, True) for one in alone]))
    found = []
    for function, tests in candidates:
        own = [next(verdicts) for _ in tests]
        passing = [test for test, verdict in zip(tests, own, strict=True) if verdict.verdict == "passed"]
        if passing:
            found.append((function, problem_of(function, name, passing)))
        else:
            reasons[f"fails its own tests in the sandbox: {own[0].verdict}"] += 1
    return found


def is_kept_out(name: str, problem: Problem, function: OwnFunction, source: str) -> bool:
    """Return whether decontamination drops the function as a row, and its file as one.

    The row of the function is without the helpers of its prompt, which other rows need not have.
    """
    index = ProblemIndex([(name, problem)], Contamination())
    alone = function.module.segment(function.node)
    rows = [RowView("row", "", "", text, text, "whole") for text in (alone, source)]
    return all(any(any(check(row, index)) for check in CONTAMINATION_CHECKS.values()) for row in rows)
