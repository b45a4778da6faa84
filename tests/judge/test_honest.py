"""Honest programs and answers of unusual shapes: each gets the verdict that a person would give."""

import json
from pathlib import Path

import pytest

from stages.common.rows.schema import Problem
from stages.judge.pool import Pool
from stages.judge.sandbox.host import Limits
from stages.judge.sandbox.levels import detect
from stages.judge.verdict import Submission, Verdict

# Headers and answers as in HumanEval, by whose numbers the cases name them
HEADERS = {
    4: ("from typing import List\n\n\ndef mean_absolute_deviation(numbers: List[float]) -> float:\n", ["abs(candidate([1.0, 2.0, 3.0, 4.0]) - 1.0) < 1e-6"]),
    24: ("def largest_divisor(n: int) -> int:\n", ["candidate(3) == 1", "candidate(100) == 50"]),
    37: ("def sort_even(l: list):\n", ["tuple(candidate([5, 8, -12, 4, 23])) == (-12, 8, 5, 4, 23)"]),
    53: ("def add(x: int, y: int):\n", ["candidate(2, 3) == 5", "all(candidate(i, 7) == i + 7 for i in range(20))"]),
    55: ("def fib(n: int):\n", ["candidate(10) == 55", "candidate(1) == 1"]),
    60: ("def sum_to_n(n: int):\n", ["candidate(100) == 5050", "candidate(1) == 1"]),
    111: ("def histogram(test):\n", ["candidate('a b b a') == {'a': 2, 'b': 2}", "candidate('') == {}"]),
}  # fmt: skip


def problem(number: int) -> Problem:
    header, answers = HEADERS[number]
    name = header.rpartition("def ")[2].partition("(")[0]
    test = "def check(candidate):\n" + "".join(f"    assert {answer}\n" for answer in answers)
    return Problem(f"HumanEval/{number}", f'{header}    """Do it."""\n', name, "", test)


@pytest.mark.slow
def test_honest_programs_pass() -> None:
    lines = Path(__file__).with_name("honest.jsonl").read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    submissions = [
        Submission(problem(int(case["task_id"].partition("/")[2])), case["completion"]) for case in cases
    ]
    verdicts = Pool(detect(packages=["numpy"]), Limits(cpu_seconds=10.0)).judge_all(submissions)
    wrong: list[tuple[str, Verdict]] = [
        (case["completion"], verdict)
        for case, verdict in zip(cases, verdicts, strict=True)
        if verdict.verdict != case["expected"]
    ]
    assert wrong == []
