"""Problems of other kinds than functions: values, filled middles, programs that read standard input."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import PROBLEM_PARSERS
from stages.judge.extract.answers import extract_script, read_literal
from stages.judge.oracles import is_same_output
from stages.judge.sandbox.host import Limits
from stages.judge.sandbox.levels import detect
from stages.judge.selftest import self_test_submissions
from stages.judge.verdict import Submission
from tests.helpers.benchmark_rows import CRUX, EVO, EVO_RELEASED, FIX, INFILL, LIVE, LIVE_METHOD
from tests.helpers.judge_process import JudgeProcess
from tests.helpers.judge_samples import needs_bwrap

LIMITS = Limits(cpu_seconds=0.5, memory_bytes=512 << 20, wall_factor=6)


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("C"), LIMITS)
    yield judge
    judge.close()


def made(form: str, row: dict[str, Any]) -> Problem:
    return PROBLEM_PARSERS[form](row)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        *(("evoeval", EVO), ("evoeval", EVO_RELEASED), ("humanevalfix", FIX), ("humanevalfix-docs", FIX)),
        *(("cruxeval", CRUX), ("infilling", INFILL)),
    ],
)
def test_the_canonical_solution_passes_and_nothing_does_not(
    judge: JudgeProcess, form: str, row: dict[str, Any]
) -> None:
    problem = made(form, row)
    assert judge.judge(problem, problem.canonical_solution).verdict == "passed"
    assert judge.judge(problem, "    pass\n").verdict != "passed"


def test_the_fault_of_a_function_to_fix_fails(judge: JudgeProcess) -> None:
    problem = made("humanevalfix", FIX)
    assert judge.judge(problem, str(FIX["buggy_solution"])).verdict == "wrong_answer"
    answer = f"The slice is wrong.\n\n```python\n{FIX['declaration']}{FIX['canonical_solution']}```\n"
    assert judge.judge(problem, answer).verdict == "passed"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (" 'a'", "a"),
        (' "a"\n\ndef f(x):\n    return', "a"),  # a base model goes on
        (" {'b', 'a'}  # a comment", {"a", "b"}),
        ("set()", set()),
        ("[1,\n 2]", [1, 2]),
        ("== -1.5", -1.5),
        ("assert f('x == y') == 'x == y'", "x == y"),  # splitting at == would lose it
        ("[ANSWER]\nassert f(1) == {'k': (None, True)}\n[/ANSWER]\nprose", {"k": (None, True)}),
        ("It returns this:\n```python\nassert f(1) == ['  a ']\n```\nSo there.", ["  a "]),
        ("<think>maybe 3</think>\n4", 4),
        ("'a' ", "a"),
        ("' a'", " a"),  # white space inside counts
    ],
)
def test_a_literal_is_read(answer: str, value: object) -> None:
    assert read_literal(answer) == value


@pytest.mark.parametrize(
    "answer",
    ["", "hello", "f(1)", "__import__('os')", "[1, 2", "1 + x", "(" * 5000, "9" * 10000, "'a' * 10**9", "??"],
)
def test_what_is_no_literal_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_literal(answer)


def test_a_value_of_another_type_is_wrong(judge: JudgeProcess) -> None:
    problem = made("cruxeval", CRUX)
    assert judge.judge(problem, " ({'a', 'b', ' '}, ('a', 'b'))").verdict == "wrong_answer"
    assert judge.judge(problem, " f('a b')").verdict == "syntax_error"


@pytest.mark.parametrize(
    ("middle", "word"),
    [
        ("    for x in xs:", "passed"),  # a line break that the end token took
        ("    for x in xs:\n<|fim_pad|>garbage", "passed"),
        ("    for x in xs:\n<EOT>", "passed"),
        ("    for x in reversed(xs):\n", "passed"),
        ("for x in xs:\n", "syntax_error"),  # no indent is guessed: the prompt ends before it
        ("    for x in []:\n", "wrong_answer"),
        ("    return 3\n    for x in xs:\n", "wrong_answer"),
    ],
)
def test_a_middle_is_taken_as_it_is(judge: JudgeProcess, middle: str, word: str) -> None:
    problem = replace(made("infilling", INFILL), test=f"{INFILL['test']}    assert candidate([5]) == 5\n")
    assert judge.judge(problem, middle).verdict == word


READ_ALL = "import sys\ndata = sys.stdin.read().split()\nprint(sum(map(int, data[1:])))\n"


@pytest.mark.parametrize(
    "program",
    [
        "input()\nprint(sum(map(int, input().split())))",
        READ_ALL,
        "import sys\nd = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'%d\\n' % sum(map(int, d[1:])))",
        "import sys\nsys.stdin.readline()\nprint(sum(int(w) for line in sys.stdin for w in line.split()))",
        "n, *xs = map(int, open(0).read().split())\nprint(sum(xs))",
        "xs = open('/dev/stdin').read().split()\nprint(sum(map(int, xs[1:])))",
        "import os\nd = os.read(0, os.fstat(0).st_size).split()\nos.write(1, str(sum(map(int, d[1:]))).encode())",
        "def main():\n    input()\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()",
        "import sys\ninput()\nprint(sum(map(int, input().split())), end='')\nsys.exit(1)",  # output decides
        "import threading\ndef main():\n    input()\n    print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()",
        "import atexit, sys\ninput()\natexit.register(lambda: print(sum(map(int, input().split()))))\nexit()",
        "input()\nprint('', float(sum(map(int, input().split()))), '  ')\nprint()",  # white space, 3.0 for 3
        "input()\nprint(reduce(lambda a, b: a + b, map(int, input().split())))",  # LiveCodeBench imports it
        "Here is it:\n```\n2\n1 2\n```\n```python\n" + READ_ALL + "```\nUse: `python x.py`",
        "```python\nprint(0)\n```\nThat is wrong. Better:\n```python\n" + READ_ALL + "```",
    ],
)
def test_a_right_program_passes_however_it_reads(judge: JudgeProcess, program: str) -> None:
    verdict = judge.judge(made("livecodebench", LIVE), program)
    assert verdict.verdict == "passed", verdict


@pytest.mark.parametrize(
    ("program", "word"),
    [
        ("while True:\n    print('x' * 10000)", "reply_too_large"),
        ("import os\nwhile True:\n    os.write(1, b'x' * 100000)", "reply_too_large"),
        (
            "while True:\n    try:\n        print('x' * 100000)\n    except BaseException:\n        pass",
            "cpu_timeout",
        ),
        ("import sys\nwhile True:\n    sys.stdin.read()", "cpu_timeout"),
        ("while True:\n    input()", "exception"),  # EOFError
        ("import os\nos._exit(0)", "exception"),
        ("print(3)\nraise ValueError", "exception"),
        ("print(3)", "wrong_answer"),  # of the first test only
        ("print(3)\n" + READ_ALL, "wrong_answer"),  # an extra line
        ("x = bytearray(1 << 40)", "out_of_memory"),
        ("import sys\nsys.stdout.close()", "wrong_answer"),
        ("import sys\nsys.stdout = None\nsys.stdin = None", "wrong_answer"),
        ("I cannot do this.", "syntax_error"),
        ("", "syntax_error"),
        ("class A(str):\n    def __eq__(self, other): return True\nprint(A())", "wrong_answer"),
    ],
)
def test_a_hostile_or_wrong_program_does_not_pass(judge: JudgeProcess, program: str, word: str) -> None:
    verdict = judge.judge(made("livecodebench", LIVE), program)
    assert verdict.verdict == word, verdict


@needs_bwrap
def test_a_program_runs_in_the_highest_level_too() -> None:
    judge = JudgeProcess(detect("A"), LIMITS)
    assert judge.judge(made("livecodebench", LIVE), READ_ALL).verdict == "passed"
    assert (
        judge.judge(made("livecodebench", LIVE), "print(open('/etc/passwd').read())").verdict == "exception"
    )
    judge.close()


def test_each_test_of_a_program_begins_anew(judge: JudgeProcess) -> None:
    counting = "import sys\nagain = globals().get('again', 0) + 1\nprint(sum(map(int, sys.stdin.read().split()[1:])) * again)"
    assert judge.judge(made("livecodebench", LIVE), counting).verdict == "passed"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "class Solution:\n    def pairs(self, nums: List[int], k: int):\n        return [[a, b] for a, b in pairwise(nums)]",
            "passed",
        ),
        (
            "class Solution:\n    def pairs(self, nums, k):\n        return tuple([a, b] for a, b in zip(nums, nums[1:]))",
            "passed",
        ),
        (
            "def pairs(nums, k):\n    return [[a, b] for a, b in zip(nums, nums[1:])]",
            "passed",
        ),  # without the class
        (
            "class Solution:\n    def pairs(self, nums, k):\n        return [(a, b) for a, b in zip(nums, nums[1:])]",
            "wrong_answer",
        ),
        ("class Solution:\n    def other(self):\n        pass", "no_entry_point"),
        (
            "class Solution:\n    def __init__(self, x): pass\n    def pairs(self, nums, k): return []",
            "exception",
        ),
    ],
)
def test_a_method_is_called_as_livecodebench_does(judge: JudgeProcess, text: str, word: str) -> None:
    verdict = judge.judge(made("livecodebench", LIVE_METHOD), text)
    assert verdict.verdict == word, verdict


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("3\n", "3", True),
        ("  1 2  \n3", "1 2\n3\n", True),
        ("1  2", "1 2", True),  # equal numbers
        ("a  b", "a b", False),
        ("0.10", "0.1", True),
        ("50000000000000001", "50000000000000000", False),  # floats would be equal
        ("YES", "Yes", False),
        ("1\n\n2", "1\n2", False),
        ("nan", "nan", True),
        ("nan x", "nan y", False),
        ("1e999999999", "1", False),
        ("", "\n", True),
    ],
)
def test_outputs_are_compared_as_livecodebench_does(answer: str, wanted: str, same: bool) -> None:
    assert is_same_output(answer, wanted, "", 0) is same


def test_of_several_fences_the_first_or_the_last_complete_one_counts() -> None:
    text = "```python\nprint(1)\n```\n```python\nprint(2)\n```\n```python\nprint(3"
    assert extract_script(text).program.strip() == "print(2)"
    assert extract_script(text, "first").program.strip() == "print(1)"


def test_a_problem_without_a_solution_is_not_self_tested() -> None:
    problems = [made("livecodebench", LIVE), made("infilling", INFILL)]
    tested = self_test_submissions(problems)
    assert tested[-1] == Submission(problems[1], problems[1].canonical_solution)
    assert len(tested) == len(self_test_submissions([])) + 1
    assert json.dumps(problems[0].row())
