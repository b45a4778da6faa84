"""HumanEval+ and MBPP+: inputs in one batch, answers checked in the judge, and no gain for a cheating candidate."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.judge import oracles
from stages.judge.pool import Pool
from stages.judge.sandbox import values
from stages.judge.sandbox.host import Limits
from stages.judge.sandbox.levels import detect
from stages.judge.selftest import self_test_submissions, sum_up_self_test
from stages.judge.verdict import Submission
from tests.helpers.judge_process import JudgeProcess
from tests.helpers.judge_samples import HOSTILE, expected_verdicts, hostile_text, needs_bwrap

LIMITS = Limits(cpu_seconds=0.3, memory_bytes=256 << 20, wall_factor=6)
SUM = Problem(
    "sum",
    'def solve(xs):\n    """The sum."""\n',
    "solve",
    "    return sum(xs)\n",
    "",
    inputs="[[[1, 2]], [[]], [[5]]]",
    expected="[3, 0, 5]",
)


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("C"), LIMITS)
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def judge_a() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("A"), LIMITS)
    yield judge
    judge.close()


@pytest.mark.parametrize(
    ("answer", "wanted", "atol", "right"),
    [
        (3, 3, 0, True),
        (3.0, 3, 0, True),
        (True, 1, 0, True),
        ([1, 2], (1, 2), 0, False),  # a tuple is not a list
        ([1.0], (1.0,), 1e-4, False),  # nor with a tolerance
        (1.0 + 5e-7, 1.0, 0, True),  # where floats are expected there is always a tolerance
        (1.0 + 5e-6, 1.0, 0, False),
        (1.00005, 1.0, 1e-4, True),
        (1.0002, 1.0, 1e-4, False),
        (1, 1.00005, 1e-4, False),  # evalplus: an int is not close to a float, though it may equal one
        (1e9 + 50, 1e9, 0, True),  # the relative part of the tolerance
        (1e9 + 150, 1e9, 0, False),
        ([1.0, 2.0 + 1e-8], [1.0, 2.0], 0, True),
        ([1.0, 2.0], [1.0], 0, False),
        ([0.1 + 0.2, 1], [0.3, 1], 0, False),  # not only floats: exact
        ([[0.1 + 0.2], [1]], [[0.3], [1]], 1e-6, True),
        (math.nan, math.nan, 0, True),
        ([math.nan, 1.0], [math.nan, 1.0], 0, True),
        (math.inf, math.inf, 0, True),
        (math.inf, 1.0, 1e-4, False),
        (1.0, math.inf, 1e-4, False),
        (-math.inf, math.inf, 1e-4, False),
        (1 + 1e-8j, 1 + 0j, 1e-6, True),
        ("1.0", 1.0, 1e-4, False),
        (None, 1.0, 1e-4, False),
        (10**400, 1.0, 1e-4, False),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, 1e-4, False),
    ],
)
def test_equal_agrees_with_evalplus(answer: Any, wanted: Any, atol: float, right: bool) -> None:
    try:
        oracles.check_answers([answer], "[[0]]", [wanted], "equal", atol)
        assert right
    except AssertionError:
        assert not right


@pytest.mark.parametrize(
    ("oracle", "inputs", "wanted", "right", "wrong"),
    [
        ("set", "[[[1, 1]]]", (1, 2), [[2, 1, 1], {1, 2}], [[1], None, [[1], [2]]]),
        ("not_none", "[['a']]", True, ["match", 0, True], [None, False]),
        ("not_none", "[['a']]", False, [None, False], ["match", 0, True]),
        ("anything", "[[36, 57]]", False, [True, None], []),
        ("equal_or_zero", "[[8]]", 7, [7, 0], [1, None]),
        ("root", "[[[1, 2]]]", -0.5, [-0.5, -0.50000001], [0.5, None, "x", [1], math.nan, math.inf]),
        ("root", "[[[-6, 11, -6, 1]]]", 1.0, [1.0, 2, 3.0], [4.0]),  # any of its roots
        ("surface_area", "[[3, 4]]", 33, [33, 35], [34, None, "35"]),
        ("digit_distance", "[[1, 256]]", 1, [1, 12], [2, None]),
    ],
)
def test_special_checks(oracle: str, inputs: str, wanted: Any, right: list[Any], wrong: list[Any]) -> None:
    atol = 1e-4 if oracle == "root" else 0.0
    for answer in right:
        oracles.check_answers([answer], inputs, [wanted], oracle, atol)
    for answer in wrong:
        with pytest.raises(AssertionError):
            oracles.check_answers([answer], inputs, [wanted], oracle, atol)


def test_literals_hold_what_json_does_not() -> None:
    assert oracles.evaluate_literal("[[(1, 2)], [{1}], [set()], [1+2j], [-inf]]") == [
        *([(1, 2)], [{1}], [set()], [1 + 2j], [-math.inf])
    ]
    assert math.isnan(oracles.evaluate_literal("[nan]")[0])
    assert oracles.evaluate_literal("9" * 5000) == 10**5000 - 1
    with pytest.raises(NameError):
        oracles.evaluate_literal("open('/etc/passwd')")


def verdict_and_reason(judge: JudgeProcess, problem: Problem, completion: str) -> tuple[str, str]:
    verdict = judge.judge(problem, completion)
    return verdict.verdict, verdict.reason


@pytest.mark.parametrize(
    ("completion", "verdict", "reason"),
    [
        ("    return sum(xs)", "passed", ""),
        ("    return sum(xs) or None", "wrong_answer", "an assertion after call 2"),
        ("    return sum(xs) / (xs != [5])", "exception", "ZeroDivisionError: division by zero"),
        ("    return range(3)", "wrong_answer", "an assertion after call 1"),
        ("    return object()", "unsupported_value", "an answer of type object"),
        ("    return 'x' * 5_000_000", "reply_too_large", "a reply of 50000"),
        ("    x = []\n    x.append(x)\n    return x", "reply_too_large", "nested deeper than 100"),
        ("    return bytearray(1 << 33)", "out_of_memory", "MemoryError"),
        (
            "    while xs == [5]:\n        pass\n    return sum(xs)",
            "cpu_timeout",
            "more than 0.3 s of CPU time",
        ),
        ("    import os\n    os._exit(0)", "exception", "the process ended"),
        ("    raise SystemExit", "exception", "SystemExit"),
    ],
)
def test_verdicts_of_a_batch(judge: JudgeProcess, completion: str, verdict: str, reason: str) -> None:
    found = verdict_and_reason(judge, SUM, completion)
    assert found[0] == verdict, found
    assert reason in found[1]


FORGE = """
import json, os, struct

def solve(xs):
    for fd in range(3, 64):
        try:
            data = json.dumps({reply}).encode()
            os.write(fd, struct.pack(">I", len(data)) + data)
        except OSError:
            pass
    os._exit(0)
"""


@pytest.mark.parametrize(
    "reply",
    [
        {"id": 2, "value": 3},
        {"id": 1, "value": ["f"]},
        {"id": 1, "values": [3, 0, 5]},
        {"id": 1, "value": 3, "error": "x"},
        {"id": 1},
        {},
    ],
)
def test_a_forged_batch_does_not_pass(judge: JudgeProcess, reply: dict[str, Any]) -> None:
    found = verdict_and_reason(judge, SUM, FORGE.replace("{reply}", repr(reply)))
    assert found[0] == "exception", found
    assert any(text in found[1] for text in ("a reply of its own", "that no encoder writes", "tag 'f'"))


@pytest.mark.slow
@needs_bwrap
@pytest.mark.parametrize(
    "path",
    [p for p in HOSTILE if not any("timeout" in word for word in expected_verdicts(p))],
    ids=lambda p: p.stem,
)
def test_hostile_completion_does_not_pass_in_a_batch(judge_a: JudgeProcess, path: Path) -> None:
    text = hostile_text(path)
    given = [[1, 2, 3], [], *([i, -i, 2 * i] for i in range(10))]
    many = replace(
        SUM,
        prompt=SUM.prompt.replace("xs", "numbers"),
        inputs=repr([[xs] for xs in given]),
        expected=repr([sum(xs) for xs in given]),
    )
    verdict = judge_a.judge(many, text)
    assert verdict.verdict in expected_verdicts(path), verdict
    assert judge_a.judge(many, "    return sum(numbers)").verdict == "passed"


def test_a_change_in_place_reaches_no_other_call(judge: JudgeProcess) -> None:
    twice = replace(SUM, inputs="[[[1, 2]], [[1, 2]]]", expected="[3, 3]")
    assert (
        verdict_and_reason(judge, twice, "    total = sum(xs)\n    xs.clear()\n    return total")[0]
        == "passed"
    )
    # nor the judge's own copy, which a check looks at
    root = replace(SUM, inputs="[[[1, 2]]]", expected="[-0.5]", oracle="root", atol=1e-4)
    assert verdict_and_reason(judge, root, "    xs[:] = [0]\n    return 7.0")[0] == "wrong_answer"


def test_answers_are_together_longer_than_a_message(judge: JudgeProcess) -> None:
    length = values.MAX_FRAME_BYTES // 8
    texts = [chr(i + 65) * length for i in range(16)]
    long = replace(SUM, inputs=repr([[[i]] for i in range(16)]), expected=repr(texts))
    body = f"    return chr(xs[0] + 65) * {length}"
    assert verdict_and_reason(judge, long, body) == ("passed", "")
    last = f"{body} if xs != [15] else ''"
    assert verdict_and_reason(judge, long, last) == ("wrong_answer", "an assertion after call 16")


def test_expected_answers_may_come_from_the_canonical_solution(judge: JudgeProcess) -> None:
    unknown = replace(SUM, task_id="unknown", expected="")
    assert verdict_and_reason(judge, unknown, "    return sum(xs)")[0] == "passed"
    assert verdict_and_reason(judge, unknown, "    return len(xs)")[0] == "wrong_answer"
    matched = Problem(
        *("match", "import re\n\ndef solve(x):\n    pass\n", "solve", "import re\n\ndef solve(x):\n    return re.match('a', x)\n", ""),
        inputs="[['a'], ['b']]",
        oracle="not_none",
    )  # fmt: skip
    assert verdict_and_reason(judge, matched, matched.canonical_solution)[0] == "passed"
    assert verdict_and_reason(judge, matched, "def solve(x):\n    return x[0] == 'a'\n")[0] == "passed"
    assert verdict_and_reason(judge, matched, "def solve(x):\n    return x\n")[0] == "wrong_answer"


@pytest.mark.slow
def test_the_self_test_covers_problems_with_inputs() -> None:
    pool = Pool(detect("C"), LIMITS, workers=1)
    wrong = replace(SUM, task_id="wrong", expected="[3, 0, 6]")
    problems = [SUM, wrong, replace(SUM, task_id="unknown", expected="")]
    tested = sum_up_self_test(problems, pool, pool.judge_all(self_test_submissions(problems)))
    assert tested.canonical_failed == {"wrong": "wrong_answer: an assertion after call 3"}
    assert tested.weak == []
    endless = replace(
        SUM, task_id="endless", expected="", canonical_solution="    while True:\n        pass\n"
    )
    with pytest.raises(
        UserError, match="endless: its canonical solution does not answer the inputs: cpu_timeout"
    ):
        pool.judge_all([Submission(endless, "    return 1")])
