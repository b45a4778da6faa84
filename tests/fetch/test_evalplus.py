"""Golden rows of HumanEval+ and MBPP+ in the shapes of the hub and of evalplus's releases, judged to the end."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.fetch.benchmark_formats import parse_benchmark
from stages.fetch.settings import Source
from stages.judge.oracles import evaluate_literal
from stages.judge.sandbox.host import Limits
from stages.judge.sandbox.levels import detect
from tests.helpers.judge_process import JudgeProcess
from tests.helpers.loopback_hub import made_file

PLUS = Source(name="plus", kind="file", format="evalplus")
# tools/humaneval/to_original_fmt.py and tools/mbpp/to_original_fmt.py of evalplus write the hub's programs
FLOATS = """\
import numpy as np

def is_floats(x) -> bool:
    # check if it is float; List[float]; Tuple[float]
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False


def assertion(out, exp, atol):
    exact_match = out == exp

    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
"""
HUMANEVAL_TEST = (
    FLOATS
    + """

def check(candidate):
    inputs = {inputs}
    results = {results}
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        {assertion}
"""
)
MBPP_TEST = (
    "import numpy as np\nfrom math import inf\n\n"
    + FLOATS
    + """
inputs = {inputs}
results = {results}
for i, (inp, exp) in enumerate(zip(inputs, results)):
    {assertion}
"""
)
TRUNCATE = {
    "task_id": "HumanEval/2",
    "prompt": 'def truncate_number(number: float) -> float:\n    """ The decimal part.\n    >>> truncate_number(3.5)\n    0.5\n    """\n',
    "canonical_solution": "\n    return number % 1.0\n",
    "entry_point": "truncate_number",
    "test": HUMANEVAL_TEST.format(inputs="[[3.5], [1.33], [123.456]]", results="[0.5, 0.33000000000000007, 0.45600000000000307]", assertion="assertion(candidate(*inp), exp, 1e-06)"),
}  # fmt: skip
FIND_ZERO = {
    "task_id": "HumanEval/32",
    "prompt": 'import math\n\n\ndef poly(xs: list, x: float):\n    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])\n\n\ndef find_zero(xs: list):\n    """ A root of the polynomial xs."""\n',
    "canonical_solution": "    begin, end = -1.0, 1.0\n    while poly(xs, begin) * poly(xs, end) > 0:\n        begin, end = begin * 2, end * 2\n    while end - begin > 1e-10:\n        middle = (begin + end) / 2\n        if poly(xs, middle) * poly(xs, begin) > 0:\n            begin = middle\n        else:\n            end = middle\n    return begin\n",
    "entry_point": "find_zero",
    "test": "import math\n\ndef _poly(xs: list, x: float):\n    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])\n\n\ndef check(candidate):\n    inputs = [[[-10, -2]], [[-6, 11, -6, 1]]]\n    results = [-5.000000000058208, 1.0]\n    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assert _poly(*candidate(*inp), inp) <= 0.0001\n",  # a mistake of the hub's: no solution passes it
}  # fmt: skip
ALL_PREFIXES = {  # the hub leaves out long results and gives the reference
    "task_id": "HumanEval/14",
    "prompt": 'from typing import List\n\n\ndef all_prefixes(string: str) -> List[str]:\n    """ All prefixes, shortest first."""\n',
    "canonical_solution": "    results = []\n    for i in range(len(string)):\n        results.append(string[:i+1])\n    return results\n",
    "entry_point": "all_prefixes",
    "test": FLOATS
    + "\n\ndef ref_func(string: str) -> List[str]:\n    results = []\n    for i in range(len(string)):\n        results.append(string[:i+1])\n    return results\n\n\ndef check(candidate):\n    inputs = [[''], ['asdfgh']]\n    for i, inp in enumerate(inputs):\n        assertion(candidate(*inp), ref_func(*inp), 0)\n",
}  # fmt: skip
SIMILAR = {
    "task_id": 2,
    "code": "\ndef similar_elements(test_tup1, test_tup2):\n  return tuple(set(test_tup1) & set(test_tup2))\n",
    "prompt": "Write a function to find the shared elements from the given two lists.",
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "test_imports": [],
    "test_list": ["assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))", "assert set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))"],
    "test": MBPP_TEST.format(inputs="[[(3, 4, 5, 6), (5, 7, 4, 10)], [(1, 2, 3, 4), (5, 4, 3, 7)], [(), ()]]", results="[(4, 5), (3, 4), ()]", assertion="assertion(similar_elements(*inp), exp, 0)"),
}  # fmt: skip
POSITIVE_SUM = {
    "task_id": "Mbpp/9001",
    "code": "def half(a):\n    return a / 2\n",
    "prompt": "Write a function to halve.",
    "source_file": "x",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(half(3), 1.5)"],
    "test": MBPP_TEST.format(inputs="[[3], [inf], [-inf], [nan]]", results="[1.5, inf, -inf, nan]", assertion="assertion(half(*inp), exp, 0.0001)"),
}  # fmt: skip
RELEASED = {  # a line of HumanEvalPlus.jsonl
    "task_id": "HumanEval/8",
    "prompt": 'from typing import List, Tuple\n\n\ndef sum_product(numbers: List[int]) -> Tuple[int, int]:\n    """ Sum and product of the numbers."""\n',
    "contract": "\n    assert all(type(n) == int for n in numbers), 'invalid inputs' # $_CONTRACT_$\n",
    "canonical_solution": "    s, p = 0, 1\n    for number in numbers:\n        s += number\n        p *= number\n    return s, p\n",
    "entry_point": "sum_product",
    "base_input": [[[]], [[1, 1, 1]], [[100, 0]]],
    "plus_input": [[[9223372036854775808, 2]], [[1, 1, 1]]],
    "atol": 0,
}  # fmt: skip
RELEASED_MBPP = {  # a line of MbppPlus.jsonl
    "task_id": "Mbpp/106",
    "prompt": '"""\nWrite a function to add the given list to the given tuples.\nassert add_lists([5, 6, 7], (9, 10)) == (9, 10, 5, 6, 7)\n"""\n',
    "entry_point": "add_lists",
    "canonical_solution": "\ndef add_lists(test_list, test_tup):\n  return tuple(list(test_tup) + test_list)\n",
    "contract": "\n  assert isinstance(test_list, list), 'invalid inputs' # $_CONTRACT_$\n",
    "base_input": [[[5, 6, 7], [9, 10]]],
    "plus_input": [[[], []], [[1, "a"], [2]]],
    "atol": 0,
}  # fmt: skip
CHECK_STR = {
    "task_id": "Mbpp/461",
    "prompt": '"""\nWrite a python function to check whether the text starts with a vowel.\nassert check_str("annie")\n"""\n',
    "entry_point": "check_str",
    "canonical_solution": "\nimport re\ndef check_str(string):\n  return re.search('^[aeiouAEIOU][A-Za-z0-9_]*', string)\n",
    "contract": "",
    "base_input": [["annie"], ["dawood"]],
    "plus_input": [],
    "atol": 0,
}  # fmt: skip
ROWS = [TRUNCATE, FIND_ZERO, ALL_PREFIXES, SIMILAR, POSITIVE_SUM, RELEASED, RELEASED_MBPP, CHECK_STR]


def problem(row: dict[str, Any]) -> Problem:
    return parse_benchmark(PLUS, [made_file("x.jsonl", (json.dumps(row) + "\n").encode())])[0]


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("C"), Limits(cpu_seconds=1.0, wall_factor=3))
    yield judge
    judge.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["task_id"]))
def test_canonical_solutions_pass(judge: JudgeProcess, row: dict[str, Any]) -> None:
    one = problem(row)
    assert judge.judge(one, one.canonical_solution).verdict == "passed"


@pytest.mark.parametrize(
    ("row", "completion", "word"),
    [
        (TRUNCATE, "    return number % 1.0 + 1e-7", "passed"),
        (TRUNCATE, "    return number % 1.0 + 1e-5", "wrong_answer"),
        (TRUNCATE, "    return str(number % 1.0)", "wrong_answer"),
        (FIND_ZERO, "    return 3.0 if len(xs) == 4 else -xs[0] / xs[1]", "passed"),  # another root than the reference's
        (FIND_ZERO, "    return 3.1 if len(xs) == 4 else -xs[0] / xs[1]", "wrong_answer"),
        (ALL_PREFIXES, "    return [string[:i] for i in range(1, len(string) + 1)]", "passed"),
        (ALL_PREFIXES, "    return [string[:i] for i in range(len(string) + 1)]", "wrong_answer"),
        (SIMILAR, "def similar_elements(a, b):\n    return [x for x in b if x in a]", "passed"),  # as sets
        (SIMILAR, "def similar_elements(a, b):\n    return [x for x in b if x in a] + [0]", "wrong_answer"),
        (SIMILAR, "def similar_elements(a, b):\n    return (a + b)[:0] if a else None", "wrong_answer"),
        (POSITIVE_SUM, "def half(a):\n    return a * 0.50001", "passed"),
        (POSITIVE_SUM, "def half(a):\n    return a // 2 + 0.5 if a == 3 else abs(a)", "wrong_answer"),
        (RELEASED, "    import math\n    return sum(numbers), math.prod(numbers)", "passed"),
        (RELEASED, "    import math\n    return [sum(numbers), math.prod(numbers)]", "wrong_answer"),  # no tuple
        (RELEASED_MBPP, "def add_lists(a, b):\n    return b + tuple(a)", "passed"),  # a list would not add
        (RELEASED_MBPP, "def add_lists(a, b):\n    return tuple(a) + b", "wrong_answer"),
        (CHECK_STR, "def check_str(s):\n    return s[0] in 'aeiouAEIOU'", "passed"),
        (CHECK_STR, "def check_str(s):\n    return None if s[0] == 'd' else 1", "passed"),
        (CHECK_STR, "def check_str(s):\n    return 1", "wrong_answer"),
    ],
)  # fmt: skip
def test_golden_completions(judge: JudgeProcess, row: dict[str, Any], completion: str, word: str) -> None:
    verdict = judge.judge(problem(row), completion)
    assert verdict.verdict == word, verdict


def test_a_released_row_and_the_hubs_row_make_the_same_problem() -> None:
    hub, one = problem(SIMILAR), problem(RELEASED_MBPP)
    assert (hub.task_id, hub.oracle, hub.atol, hub.test) == ("Mbpp/2", "set", 0.0, "")
    assert hub.entry_point == "similar_elements"
    assert hub.prompt == f'"""\n{SIMILAR["prompt"]}\n{SIMILAR["test_list"][0]}\n"""\n'
    assert evaluate_literal(hub.expected) == [(4, 5), (3, 4), ()]
    assert evaluate_literal(one.inputs) == [[[5, 6, 7], (9, 10)], [[], ()], [[1, "a"], (2,)]]
    assert one.expected == ""
    assert len(evaluate_literal(problem(RELEASED).inputs)) == 4  # a repeated input is asked once
    assert problem(FIND_ZERO).atol == 0.0001
    assert (problem(ALL_PREFIXES).expected, problem(ALL_PREFIXES).atol) == ("", 0.0)
    assert Problem(**hub.row()) == hub
    table = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([SIMILAR]), table)
    assert parse_benchmark(PLUS, [made_file("test.parquet", table.getvalue().to_pybytes())]) == [hub]


@pytest.mark.parametrize(
    ("number", "given", "typed"),
    [
        (116, [[1, 2]], [(1, 2)]),
        (63, [[[5, 6], [7, 8]]], [[(5, 6), (7, 8)]]),
        (75, [[[6, 24], [7, 9]], 6], [[(6, 24), (7, 9)], 6]),
        (115, [[[], [1, 2], "x"]], [[{}, {1, 2}, {}]]),
        (124, ["0", "1j"], [0.0, 1j]),
        (250, [[10, 8], 4], [(10, 8), 4]),
        (259, [[[1, 3]], [[6, 7]]], [((1, 3),), ((6, 7),)]),
        (278, [[1, 5, [4, 6]]], [(1, 5, (4, 6))]),
        (307, [["a", 5], 2, 50], [("a", 5), 2, 50]),
        (722, [{"a": [6.2, 70]}, 6.0, 70], [{"a": (6.2, 70)}, 6.0, 70]),
        (252, ["(1+2j)"], [1 + 2j]),
        (580, [[4, [7, [2]]]], [(4, (7, (2,)))]),
        (3, [[1, [2]]], [[1, [2]]]),
    ],
)
def test_types_that_json_lost_are_restored(number: int, given: list[Any], typed: list[Any]) -> None:
    row = {**RELEASED_MBPP, "task_id": f"Mbpp/{number}", "base_input": [given], "plus_input": {}}
    assert list(evaluate_literal(problem(row).inputs)[0]) == typed
    assert [type(value) for value in evaluate_literal(problem(row).inputs)[0]] == [
        type(value) for value in typed
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**TRUNCATE, "test": "def check(candidate):\n    assert candidate(1) == 0\n"}, "no list of inputs"),
        ({**TRUNCATE, "test": TRUNCATE["test"].replace("[3.5]", "[open('x')]")}, "no list of inputs"),
        ({**RELEASED, "atol": None}, "row 1: not a problem in format evalplus"),
        ({k: v for k, v in RELEASED.items() if k != "plus_input"}, "it lacks 'plus_input'"),
    ],
)
def test_a_row_that_is_not_a_problem_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        problem(row)


def test_expected_results_that_are_not_plain_values_are_the_canonical_solutions() -> None:
    text = TRUNCATE["test"].replace("[0.5,", "[Counter('a'),")
    assert problem({**TRUNCATE, "test": text}).expected == ""
    digits = TRUNCATE["test"].replace("0.5,", "1" * 5000 + ",")  # more than Python reads by default
    assert len(problem({**TRUNCATE, "test": digits}).expected) > 5000


def test_problems_can_be_excluded() -> None:
    rows = "".join(json.dumps(row) + "\n" for row in (RELEASED, RELEASED_MBPP)).encode()
    some = Source(name="plus", kind="file", format="evalplus", exclude=["HumanEval/8"])
    assert [one.task_id for one in parse_benchmark(some, [made_file("x.jsonl", rows)])] == ["Mbpp/106"]
    none = Source(name="plus", kind="file", format="evalplus", exclude=["HumanEval/9"])
    with pytest.raises(
        UserError, match="source 'plus' excludes HumanEval/9, but the benchmark has no such task_id"
    ):
        parse_benchmark(none, [made_file("x.jsonl", rows)])
