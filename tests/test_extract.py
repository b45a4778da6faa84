"""Extraction: golden cases in the shapes that models write, and hostile text at a bounded cost."""

import ast
import time

import pytest

from stages.evaluate.extract import MAX_CHARACTERS, extract

PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
HEAD = 'from typing import List\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
HELPER_PROMPT = (
    'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef total(xs):\n    """Uses helper."""\n'
)
TEXT_PROMPT = '"""Write a function total that sums a list.\nassert total([1]) == 1\n"""\n'
BODY = "    return sum(xs)\n"
FULL = "def total(xs):\n    return sum(xs)\n"

# name: prompt, completion, program
GOLDEN: dict[str, tuple[str, str, str]] = {
    "body": (PROMPT, BODY, HEAD + BODY),
    "body after the stripped newline": (PROMPT, "\n" + BODY, HEAD + "\n" + BODY),
    "body with Windows line ends": (PROMPT, "    x = 0\r\n    return x\r\n", HEAD + "    x = 0\n    return x\n"),
    "body, last line cut": (PROMPT, "    x = 0\n    return sum(x", HEAD + "    x = 0\n"),
    "body, string cut": (PROMPT, '    x = 0\n    y = """begun\nand', HEAD + "    x = 0\n"),
    "body, block cut at its colon": (PROMPT, "    x = 0\n    for i in xs:\n", HEAD + "    x = 0\n"),
    "body, else without its block": (
        PROMPT,
        "    if xs:\n        return 1\n    else:\n",
        HEAD + "    if xs:\n        return 1\n",
    ),
    "body, then prose": (PROMPT, BODY + "\nThis returns the sum.\n", HEAD + BODY),
    "body, then a closing fence": (PROMPT, BODY + "```\n\nThat is all.\n", HEAD + BODY),
    "body, then another function": (PROMPT, BODY + "\n\ndef other():\n    return 1\n", HEAD + BODY),
    "body, then a helper it uses": (
        PROMPT,
        "    return one(xs)\n\n\ndef one(xs):\n    return 1\n",
        HEAD + "    return one(xs)\ndef one(xs):\n    return 1\n",
    ),
    "body, then tests": (PROMPT, BODY + "\n\nprint(total([1]))\nassert total([]) == 0\n", HEAD + BODY),
    "body, then a main block": (PROMPT, BODY + '\n\nif __name__ == "__main__":\n    total([1])\n', HEAD + BODY),
    "body, then input": (PROMPT, "    n = len(xs)\n    return n\n\nn = int(input())\n", HEAD + "    n = len(xs)\n    return n\n"),
    "body, first line without indent": (PROMPT, "x = 0\n    return x\n", HEAD + "    x = 0\n    return x\n"),
    "body, first line with one space": (PROMPT, " x = 0\n    return x\n", HEAD + "    x = 0\n    return x\n"),
    "body, first line with too many spaces": (PROMPT, "       x = 0\n    return x\n", HEAD + "    x = 0\n    return x\n"),
    "body without any indent": (
        PROMPT,
        "for x in xs:\n    y = x\nreturn y\n",
        HEAD + "    for x in xs:\n        y = x\n    return y\n",
    ),
    "body in a fence": (PROMPT, "```python\n    return sum(xs)\n```\n", HEAD + BODY),
    "body in a fence without indent": (PROMPT, "```\nreturn sum(xs)\n```\n", HEAD + BODY),
    "prompt echoed": (PROMPT, PROMPT + BODY, HEAD * 2 + BODY),
    "function again, without the docstring": (PROMPT, FULL, HEAD + FULL),
    "function in a tagged fence": (PROMPT, f"Here is the solution:\n\n```python\n{FULL}```\nDone.\n", FULL),
    "function in an untagged fence": (PROMPT, f"Sure!\n```\n{FULL}```\n", FULL),
    "function in a fence of tildes": (PROMPT, f"So:\n~~~py\n{FULL}~~~\n", FULL),
    "function in a fence that is not closed": (PROMPT, f"Certainly\n\n```python\n{FULL}", FULL),
    "second fence has the function": (PROMPT, f"```bash\npip install x\n```\nthen\n```python\n{FULL}```\n", FULL),
    "two fences define it, the first counts": (
        PROMPT,
        f"```python\n{FULL}```\nor\n```python\ndef total(xs):\n    return 0\n```\n",
        FULL,
    ),
    "fence in an indented list": (PROMPT, f"1. Like this:\n   ```python\n{FULL}   ```\n", FULL),
    "prose, then a function without a fence": (PROMPT, f"The answer is:\n\n{FULL}\nIt works.\n", FULL),
    "imports are kept where they are used": (
        PROMPT,
        "import math\nimport numpy\n\n\ndef total(xs):\n    return math.fsum(xs)\n",
        HEAD + "import math\ndef total(xs):\n    return math.fsum(xs)\n",
    ),
    "constants, classes and decorators are kept": (
        TEXT_PROMPT,
        "from functools import cache\nA = 1\nB = A + 1\nC = 3\n\n\nclass P:\n    x = B\n\n\n@cache\ndef total(xs):\n    return P.x\n",
        "from functools import cache\nA = 1\nB = A + 1\nclass P:\n    x = B\n@cache\ndef total(xs):\n    return P.x\n",
    ),
    "future imports come first": (
        PROMPT,
        f"from __future__ import annotations\n\n\n{FULL}",
        "from __future__ import annotations\n" + HEAD + FULL,
    ),
    "the recursion limit is kept": (
        TEXT_PROMPT,
        f"import sys\nsys.setrecursionlimit(10**6)\n{FULL}",
        f"import sys\nsys.setrecursionlimit(10**6)\n{FULL}",
    ),
    "a table that is filled is kept": (
        TEXT_PROMPT,
        "T = {}\nfor i in range(3):\n    T[i] = i\nT.update(a=1)\n\ndef total(xs):\n    return T[xs]\n",
        "T = {}\nfor i in range(3):\n    T[i] = i\nT.update(a=1)\ndef total(xs):\n    return T[xs]\n",
    ),
    "an import that may fail is kept": (
        TEXT_PROMPT,
        "try:\n    import numpy as np\nexcept ImportError:\n    np = None\n\ndef total(xs):\n    return np\n",
        "try:\n    import numpy as np\nexcept ImportError:\n    np = None\ndef total(xs):\n    return np\n",
    ),
    "statements on one line are told apart": (
        TEXT_PROMPT,
        "import math; print(1)\ndef total(xs): return math.pi\n",
        "import math\ndef total(xs): return math.pi\n",
    ),
    "helpers of the prompt are kept": (
        HELPER_PROMPT,
        "    return helper(xs)\n",
        'def helper(x):\n    return x + 1\ndef total(xs):\n    """Uses helper."""\n    return helper(xs)\n',
    ),
    "helpers of the prompt, function again in a fence": (
        HELPER_PROMPT,
        "```python\ndef total(xs):\n    return helper(xs)\n```",
        "def helper(x):\n    return x + 1\ndef total(xs):\n    return helper(xs)\n",
    ),
    "a prompt that is only words": (TEXT_PROMPT, FULL, FULL),
    "a prompt that is no code": ("Write total, please!", FULL, FULL),
    "a lambda under the name": (TEXT_PROMPT, "total = lambda xs: sum(xs)\n", "total = lambda xs: sum(xs)\n"),
    "an async helper and a global": (
        TEXT_PROMPT,
        "n = 0\nm = 0\nasync def go():\n    global n\n    n += 1\ndef total(xs):\n    return go\n",
        "n = 0\nasync def go():\n    global n\n    n += 1\ndef total(xs):\n    return go\n",
    ),
    "a null byte ends it": (PROMPT, BODY + "\0\n    return 0\n", HEAD + BODY),
    "a lone surrogate ends it": (PROMPT, BODY + "x = '\ud800'\n", HEAD + BODY),
    "a form feed is a line end": (PROMPT, BODY + "\f\nprint(1)\n", HEAD + BODY),
    "tabs": (PROMPT.replace("    ", "\t"), "\treturn sum(xs)\n", HEAD.replace("    ", "\t") + "\treturn sum(xs)\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    prompt, completion, program = GOLDEN[name]
    found = extract(prompt, "total", completion)
    assert (found.verdict, found.program) == ("", program), found
    ast.parse(found.program)


@pytest.mark.parametrize(
    ("completion", "verdict", "reason"),
    [
        ("", "no_entry_point", "nothing defines total"),
        ("\n\n   \n", "no_entry_point", "nothing defines total"),
        ("    # to do\n", "no_entry_point", "nothing defines total"),
        ("def other(xs):\n    return 1\n", "no_entry_point", "nothing defines total"),
        ("So:\n```python\ndef other(xs):\n    return 1\n```\n", "no_entry_point", "nothing defines total"),
        ("I cannot do that.", "syntax_error", "invalid syntax, line 1"),
        ("    return (", "syntax_error", "'(' was never closed, line 1"),
        ("\n    x = 5y\n", "syntax_error", "invalid decimal literal, line 2"),
    ],
)
def test_no_program(completion: str, verdict: str, reason: str) -> None:
    found = extract(PROMPT, "total", completion)
    assert (found.program, found.verdict, found.reason) == ("", verdict, reason)


def test_names_beside_the_entry_point_are_kept_where_asked() -> None:
    text = "class Node:\n    pass\n\n\nclass Other:\n    pass\n\n\n" + FULL
    assert extract(TEXT_PROMPT, "total", text, ["Node"]).program == f"class Node:\n    pass\n{FULL}"


BOMBS = {
    "parentheses": "(" * 60_000,
    "minus signs": "    return " + "-" * 60_000 + "1",
    "attributes": "    return a" + ".b" * 30_000,
    "a sum": "    return 1" + "+1" * 30_000,
    "lines": "x\n" * 400_000,
    "bad lines": "def f(:\n" * 9_000,
    "open brackets": "(\n" * 30_000,
    "quotes": '"""\n\n' * 10_000,
    "levels of indentation": "".join(" " * i + "if 1:\n" for i in range(300)),
    "statements on one line": "x=1;" * 15_000,
    "a chain of functions": "    return g0()\n"
    + "".join(f"def g{i}(): return g{i + 1}()\n" for i in range(2_500)),
    "errors on every line": BODY + "x y\n" * 15_000,
    "fences": "```python\nx\n```\n" * 4_000,
    "a line of a megabyte": "    x = '" + "a" * 1_000_000 + "'\n    return x\n",
    "lambdas": "    return " + "lambda: " * 8_000 + "1",
    "null bytes": "\0" * 60_000,
    "surrogates": "\ud800" * 60_000,
    "tabs and spaces": "\t \t\n" * 15_000,
    "nested f-strings": "    return " + "f'{" * 5_000,
    "decorators": "@a\n" * 20_000 + FULL,
    "indents that go back and forth": "".join(" " * (i % 90) + "x\n" for i in range(1_300)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_text_costs_bounded_time(name: str) -> None:
    started = time.process_time()
    found = extract(PROMPT, "total", BOMBS[name])
    assert time.process_time() - started < 8
    assert len(found.program) <= 6 * MAX_CHARACTERS
    assert found.verdict in ("", "syntax_error", "no_entry_point")
