"""Rows in the shapes of public benchmarks, in our own words: two of a shape at most."""

import base64
import json
import pickle
import zlib
from typing import Any


def packed(value: Any) -> str:
    """Return a value as LiveCodeBench packs private tests: base64 of zlib of a pickle (of JSON's text)."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


EVO = {
    "task_id": "EvoEval/3",
    "prompt": 'def count_down(n: int) -> list:\n    """The numbers from n down to 1, without multiples of three."""\n',
    "entry_point": "count_down",
    "canonical_solution": "    return [i for i in range(n, 0, -1) if i % 3]\n",
    "test": "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert out == exp or np.allclose(out, exp)\n\ndef check(candidate):\n    inputs = [[5], [0]]\n    results = [[5, 4, 2, 1], []]\n    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n",
}
EVO_RELEASED = {
    **{k: v for k, v in EVO.items() if k != "test"},
    "inputs": ["5", "0", "-1"],
    "parent": "HumanEval/3",
}
FIX = {
    "task_id": "Python/0",
    "prompt": 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """ The sum of all numbers of the list xs.\n    """\n',
    "declaration": "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n",
    "canonical_solution": "    return sum(xs)\n",
    "buggy_solution": "    return sum(xs[1:])\n",
    "bug_type": "value misuse",
    "failure_symptoms": "incorrect output",
    "entry_point": "total",
    "import": "",
    "test_setup": "",
    "test": "\n\ndef check(total):\n    assert total([1, 2]) == 3\n    assert total([]) == 0\n\ncheck(total)",
    "example_test": "",
    "signature": "total(xs: List[int]) -> int",
    "docstring": "The sum of all numbers of the list xs.",
    "instruction": "Write a Python function `total(xs: List[int]) -> int`.",
}
CRUX = {
    "code": "def f(text):\n    seen = set(text)\n    return seen, text.split()",
    "input": "'a b'",
    "output": "({'a', ' ', 'b'}, ['a', 'b'])",
    "id": "sample_7",
}
INFILL = {
    "task_id": "SingleLineInfilling/HumanEval/0/L0",
    "entry_point": "largest",
    "prompt": "def helper(x):\n    return x\n\n\ndef largest(xs):\n    best = xs[0]\n",
    "suffix": "        if helper(x) > best:\n            best = x\n    return best\n",
    "canonical_solution": "    for x in xs:\n",
    "test": "def check(candidate):\n    assert candidate([1, 3, 2]) == helper(3)\n",
}
LIVE = {
    "question_title": "Sum",
    "question_content": 'Read n and then n numbers, $n \\leq 5$, and write their sum.\n\nSample: """quoted"""',
    "platform": "atcoder",
    "question_id": "abc001_a",
    "contest_id": "abc001",
    "contest_date": "2024-10-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "2\n1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed(json.dumps([{"input": "1\n7", "output": "7\n", "testtype": "stdin"}])),
    "metadata": "{}",
}
LIVE_METHOD = {
    **LIVE,
    "question_content": "Return the pairs of neighbours in nums.",
    "question_id": "3001",
    "platform": "leetcode",
    "contest_date": "2025-01-01T00:00:00",
    "starter_code": "class Solution:\n    def pairs(self, nums: List[int], k: int) -> List[List[int]]:\n        ",
    "public_test_cases": json.dumps(
        [{"input": "[1, 2, 3]\n1", "output": "[[1, 2], [2, 3]]", "testtype": "functional"}]
    ),
    "private_test_cases": packed(json.dumps([{"input": "[]\n1", "output": "[]", "testtype": "functional"}])),
    "metadata": '{"func_name": "pairs"}',
}
