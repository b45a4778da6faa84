"""What may kill the process that runs it runs in a process of its own in tests too, never in pytest's."""

import ast
from pathlib import Path

import pytest

from stages.common.rows.schema import Problem
from stages.judge.sandbox.levels import detect
from tests.helpers.judge_process import JudgeDied, JudgeProcess
from tests.helpers.judge_samples import LIMITS, SUM

TESTS = Path(__file__).resolve().parents[1]
# These arm ITIMER_PROF, whose signal ends the process that calls them
ARMS_TIMER = {"SampleJudge", "run_test", "run_inputs", "time_limit"}


@pytest.mark.slow
def test_sigprof_kills_the_judges_process_and_not_pytest() -> None:
    """An endless loop in C code, which looks at no signal handler."""
    test = "import itertools\ndef check(candidate):\n    any(itertools.repeat(0))\n"
    judge = JudgeProcess(detect("C"), LIMITS)
    try:
        with pytest.raises(JudgeDied, match=r"slow: the judge's process ended in phase 'test' \(SIGPROF\)"):
            judge.judge(Problem("slow", SUM.prompt, "solve", "", test), SUM.canonical_solution)
        assert judge.judge(SUM, SUM.canonical_solution).verdict == "passed"
    finally:
        judge.close()


def test_no_test_arms_the_timer_in_its_own_process() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in TESTS.rglob("*.py")
        if path.parent.name != "hostile"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("stages.judge")
        if ARMS_TIMER & {alias.name for alias in node.names}
    ]
    assert found == [], "judge through tests.helpers.judge_process.JudgeProcess or a Pool"
