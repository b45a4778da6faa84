"""Extraction: golden cases of what models write, and hostile text at a bounded cost."""

import ast

import pytest

from stages.judge.extract import program
from stages.judge.extract.program import MAX_COMPLETION_CHARACTERS, extract_program
from stages.judge.extract.thinking import opened_by
from tests.judge.test_thinking import THOUGHTS

PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
HEAD = 'def total(xs: List[int]) -> int:\n    """The sum."""\n'
HELPER_PROMPT = (
    'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef total(xs):\n    """Uses helper."""\n'
)
TEXT_PROMPT = '"""Write a function total that sums a list.\nassert total([1]) == 1\n"""\n'
BODY = "    return sum(xs)\n"
FULL = "def total(xs):\n    return sum(xs)\n"
DRAFT = "def total(xs):\n    return 0\n"

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
    "body, then another function": (PROMPT, BODY + "\n\ndef other():\n    return 1\n", HEAD + BODY + "def other():\n    return 1\n"),
    "body, then a helper it uses": (
        PROMPT,
        "    return one(xs)\n\n\ndef one(xs):\n    return 1\n",
        HEAD + "    return one(xs)\ndef one(xs):\n    return 1\n",
    ),
    "body, then tests": (PROMPT, BODY + "\n\nprint(total([1]))\nassert total([]) == 0\n", HEAD + BODY),
    "body, then a main block": (PROMPT, BODY + '\n\nif __name__ == "__main__":\n    total([1])\n', HEAD + BODY),
    "body, then input": (PROMPT, "    n = len(xs)\n    return n\n\nn = int(input())\n", HEAD + "    n = len(xs)\n    return n\nn = int(input())\n"),
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
    "two fences define it, the last counts": (PROMPT, f"```python\n{DRAFT}```\nor\n```python\n{FULL}```\n", FULL),
    "the last fence is cut, the one before counts": (
        PROMPT,
        f"```python\n{FULL}```\nor\n```python\ndef total(xs):\n    n = 0\n    return (",
        FULL,
    ),
    "a constant and an import of an earlier version are kept": (
        TEXT_PROMPT,
        f"```python\nimport re\nBASE = 0\nUNUSED = 1\n{DRAFT}```\nbetter:\n```python\ndef total(xs):\n    return re and BASE\n```\n",
        "import re\nBASE = 0\ndef total(xs):\n    return re and BASE\n",
    ),
    "NotImplementedError is a stub": (
        TEXT_PROMPT,
        f"```python\n{FULL}```\nThe frame:\n```python\ndef total(xs):\n    raise NotImplementedError('later')\n```\n",
        FULL,
    ),
    "fence in an indented list": (PROMPT, f"1. Like this:\n   ```python\n{FULL}   ```\n", FULL),
    "prose, then a function without a fence": (PROMPT, f"The answer is:\n\n{FULL}\nIt works.\n", FULL),
    "imports are kept": (
        PROMPT,
        "import math\nimport numpy\n\n\ndef total(xs):\n    return math.fsum(xs)\n",
        HEAD + "import math\nimport numpy\ndef total(xs):\n    return math.fsum(xs)\n",
    ),
    "constants, classes and decorators are kept": (
        TEXT_PROMPT,
        "from functools import cache\nA = 1\nB = A + 1\nC = 3\n\n\nclass P:\n    x = B\n\n\n@cache\ndef total(xs):\n    return P.x\n",
        "from functools import cache\nA = 1\nB = A + 1\nC = 3\nclass P:\n    x = B\n@cache\ndef total(xs):\n    return P.x\n",
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
        "import math\nprint(1)\ndef total(xs): return math.pi\n",
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
        "n = 0\nm = 0\nasync def go():\n    global n\n    n += 1\ndef total(xs):\n    return go\n",
    ),
    "a null byte ends it": (PROMPT, BODY + "\0\n    return 0\n", HEAD + BODY),
    "a lone surrogate ends it": (PROMPT, BODY + "x = '\ud800'\n", HEAD + BODY),
    "a form feed is a line end": (PROMPT, BODY + "\f\nprint(total([1]))\n", HEAD + BODY),
    "thinking, then a fence": (PROMPT, f"<think>\nMaybe\n```python\n{DRAFT}```\nNo.\n</think>\n\n```python\n{FULL}```\n", FULL),
    "thinking that the template opened": (TEXT_PROMPT, f"First I try\n\n{DRAFT}\nNo.</think>\n\n{FULL}", FULL),
    "longer thinking than is read": (PROMPT, f"<think>\n{DRAFT * 2000}</think>\n```python\n{FULL}```\n", FULL),
    "Code Llama's tags": (TEXT_PROMPT, f"[PYTHON]\n{FULL}[/PYTHON]\n[TESTS]\nassert total([]) == 0\n[/TESTS]\n", FULL),
    "body, then the token that ends a turn": (PROMPT, "    return sum(xs)<|im_end|>\n", HEAD + BODY),
    "function, then the token that ends a text": (TEXT_PROMPT, FULL.rstrip() + "<|endoftext|>import os\n", FULL),
    "body, then </s>": (PROMPT, "    return sum(xs)</s>\n", HEAD + BODY),
    "a string that holds </s> is no end": (PROMPT, "    return '</s>' * 2\n", HEAD + "    return '</s>' * 2\n"),
    "an answer's heading": (TEXT_PROMPT, f"### Response:\n{FULL}\n### Explanation:\nIt sums.\n", FULL),
    "body, then the prompt again and again": (PROMPT, BODY + f"\n\n{PROMPT}    return 0\n" * 2, HEAD + BODY + "from typing import List\n" * 2),
    "body, then another version that is cut": (PROMPT, BODY + "\n\ndef total(xs):\n    n = 0\n    for x in", HEAD + BODY),
    "body, then the header again": (PROMPT, BODY + '\n\ndef total(xs):\n    """The sum."""\n', HEAD + BODY),
    "body, then the prompt's helper again": (
        HELPER_PROMPT,
        '    return helper(xs)\n\n\ndef helper(x):\n    """One more."""\n',
        'def helper(x):\n    return x + 1\ndef total(xs):\n    """Uses helper."""\n    return helper(xs)\n',
    ),
    "two versions in a file, the last counts": (TEXT_PROMPT, DRAFT + "\n\n" + FULL, DRAFT + FULL),
    "two versions in a file, the last is cut": (TEXT_PROMPT, FULL + "\n\ndef total(xs):\n    n = 0\n    for x in", FULL),
    "a stub in the text, then the function": (PROMPT, f"    pass\n\nLike this:\n```python\n{FULL}```\n", FULL),
    "a stub in a fence, then the function in another": (TEXT_PROMPT, f"```python\ndef total(xs):\n    ...\n```\nso\n```python\n{FULL}```\n", FULL),
    "the prompt in a fence, then the function in another": (PROMPT, f"You have:\n```python\n{PROMPT}```\nI write:\n```python\n{FULL}```\n", FULL),
    "only a stub": (PROMPT, "    pass\n", HEAD + "    pass\n"),
    "a use in a fence, then the function in another": (PROMPT, f"Use:\n```python\nprint(total([1]))\n```\nCode:\n```python\n{FULL}```\n", FULL),
    "imports in a fence, the function in another": (
        TEXT_PROMPT,
        "Import:\n```python\nimport math\n```\nThen:\n```python\ndef total(xs):\n    return math.fsum(xs)\n```\n",
        "import math\ndef total(xs):\n    return math.fsum(xs)\n",
    ),
    "a helper in a later fence": (
        TEXT_PROMPT,
        "```python\ndef total(xs):\n    return one(xs)\n```\nwith\n```python\ndef one(xs):\n    return 1\n```\n",
        "def one(xs):\n    return 1\ndef total(xs):\n    return one(xs)\n",
    ),
    "a use in a later fence that hides a builtin": (
        TEXT_PROMPT,
        "```python\ndef total(xs):\n    return list(xs)\n```\nUse:\n```python\ndef list(x):\n    return 0\nsum = 1\n```\n",
        "def total(xs):\n    return list(xs)\n",
    ),
    "fence in an indented list, code indented with it": (
        PROMPT,
        "1. So:\n\n    ```python\n    import math\n\n    def total(xs):\n        return math.fsum(xs)\n    ```\n",
        "import math\ndef total(xs):\n    return math.fsum(xs)\n",
    ),
    "a use in another fence that imports the function": (
        PROMPT,
        f"```python\n{FULL}```\nUse:\n```python\nfrom solution import total\nprint(total([1]))\n```\n",
        FULL,
    ),
    "an import under the name": (TEXT_PROMPT, "from math import fsum as total\n", "from math import fsum as total\n"),
    "an indented block after prose": (TEXT_PROMPT, "Here's how::\n\n    def total(xs):\n        return sum(xs)\n\nThat's it.\n", FULL),
    "fence of four backticks": (PROMPT, f"````python\n{FULL}````\n", FULL),
    "fence with more behind its tag": (PROMPT, f'```python title="a.py"\n{FULL}```\n', FULL),
    "fence that begins behind a sentence": (PROMPT, f"Here it is: ```python\n{FULL}```\n", FULL),
    "fence that ends behind the code": (PROMPT, f"```python\n{FULL.rstrip()}```\n", FULL),
    "fence that is not closed before the next": (PROMPT, f"```text\nnotes\n\n```python\n{FULL}```\n", FULL),
    "fence in a docstring": (
        PROMPT,
        'So:\n```python\ndef total(xs):\n    """Sum.\n\n    ```\n    >>> total([])\n    ```\n    """\n    return sum(xs)\n```\n',
        'def total(xs):\n    """Sum.\n\n    ```\n    >>> total([])\n    ```\n    """\n    return sum(xs)\n',
    ),
    "function without a fence, then a closing one": (PROMPT, f"The code:\n\n{FULL}```\nIt sums.\n", FULL),
    "output in a fence of its own": (PROMPT, f"```python\n{FULL}```\nOutput:\n```\n6\n```\n", FULL),
    "prose that begins like code": (TEXT_PROMPT, f"from the prompt we know:\nclass of problems: sums.\n\n{FULL}", FULL),
    "prose, then a constant": (TEXT_PROMPT, "Answer:\nBASE = 0\n\ndef total(xs):\n    return BASE\n", "BASE = 0\ndef total(xs):\n    return BASE\n"),
    "prose between two versions": (PROMPT, f"Solution 1:\n\n{FULL}\nSolution 2:\n\n{DRAFT}", FULL),
    "body with two spaces": (PROMPT, "  n = 0\n  return n\n", HEAD + "    n = 0\n    return n\n"),
    "body with eight spaces": (PROMPT, "        n = 0\n        return n\n", HEAD + "    n = 0\n    return n\n"),
    "body with a comment at the margin": (PROMPT, "    # one\n\n# two\n    return 1\n", HEAD + "    # one\n\n# two\n    return 1\n"),
    "body, a second docstring first": (PROMPT, '    """More."""\n' + BODY, HEAD + '    """More."""\n' + BODY),
    "body in Python 2, up to its print": (PROMPT, "    n = 0\n    print n\n    return n\n", HEAD + "    n = 0\n"),
    "body with a walrus and a match": (
        PROMPT,
        "    match xs:\n        case []:\n            return 0\n    if (n := sum(xs)) > 0:\n        return n\n",
        HEAD + "    match xs:\n        case []:\n            return 0\n    if (n := sum(xs)) > 0:\n        return n\n",
    ),
    "names outside ASCII": (PROMPT, "    größe = sum(xs)\n    return größe\n", HEAD + "    größe = sum(xs)\n    return größe\n"),
    "a function inside that has the same name": (
        TEXT_PROMPT,
        "def total(xs):\n    def total(ys):\n        return 1\n    return total(xs)\n",
        "def total(xs):\n    def total(ys):\n        return 1\n    return total(xs)\n",
    ),
    "another name for a function": (TEXT_PROMPT, "def add(xs):\n    return 1\n\ntotal = add\n", "def add(xs):\n    return 1\ntotal = add\n"),
    "a method under the name": (
        TEXT_PROMPT,
        "class S:\n    def run(self, xs):\n        return 1\n\ntotal = S().run\n",
        "class S:\n    def run(self, xs):\n        return 1\ntotal = S().run\n",
    ),
    "a type's name in the header": (
        TEXT_PROMPT,
        "from typing import List\nV = List[int]\n\ndef total(xs: V) -> int:\n    return 1\n",
        "from typing import List\nV = List[int]\ndef total(xs: V) -> int:\n    return 1\n",
    ),
    "a list that a loop fills is kept": (
        TEXT_PROMPT,
        "P = []\nfor i in range(3):\n    if i:\n        P.append(i)\n\ndef total(xs):\n    return P\n",
        "P = []\nfor i in range(3):\n    if i:\n        P.append(i)\ndef total(xs):\n    return P\n",
    ),
    "input at the top that the function does not need": (
        TEXT_PROMPT,
        "n = int(input())\n\ndef total(xs):\n    return 1\n\nprint(total(n))\n",
        "n = int(input())\ndef total(xs):\n    return 1\n",
    ),
    "a decorator that is cut": (TEXT_PROMPT, FULL + "\n@functools.lru", FULL),
    "a byte order mark": (TEXT_PROMPT, "\ufeff" + FULL, FULL),
    "a coding line that lies": (TEXT_PROMPT, "# -*- coding: utf-7 -*-\n" + FULL, FULL),
    "tabs": (PROMPT.replace("    ", "\t"), "\treturn sum(xs)\n", HEAD.replace("    ", "\t") + "\treturn sum(xs)\n"),
}  # fmt: skip


def without_imports(program: str) -> str:
    """Leave out the prompts' own imports, which most programs start with."""
    return program.replace("from typing import List\n", "").replace("import math\n", "")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    prompt, completion, program = GOLDEN[name]
    found = extract_program(prompt, "total", completion)
    assert (found.verdict, without_imports(found.program)) == ("", without_imports(program)), found
    ast.parse(found.program)


@pytest.mark.parametrize(
    ("completion", "verdict", "reason"),
    [
        ("", "no_entry_point", "nothing defines total"),
        ("\n\n   \n", "no_entry_point", "nothing defines total"),
        ("    # to do\n", "no_entry_point", "nothing defines total"),
        ("def other(xs):\n    return 1\n", "no_entry_point", "nothing defines total"),
        ("So:\n```python\ndef other(xs):\n    return 1\n```\n", "no_entry_point", "nothing defines total"),
        (
            "class Solution:\n    def total(self, xs):\n        return 1\n",
            "no_entry_point",
            "nothing defines total",
        ),
        ("<think>\nPerhaps\n\n" + FULL + "\nor", "no_entry_point", "nothing defines total"),
        ('{"code": "def total(xs): return 1"}', "no_entry_point", "nothing defines total"),
        (">>> " + FULL, "syntax_error", "invalid syntax, line 1"),
        (
            "    return 1 if xs[0] &gt; 0 else 2\n",
            "syntax_error",
            "expected 'else' after 'if' expression, line 1",
        ),
        ("    return\u00a0sum(xs)\n", "syntax_error", "invalid non-printable character U+00A0, line 1"),
        ("    return len(\u201cabc\u201d)\n", "syntax_error", "invalid character '\u201c' (U+201C), line 1"),
        (
            '    """Begun',
            "syntax_error",
            "unterminated triple-quoted string literal (detected at line 6), line 1",
        ),
        ("I cannot do that.", "syntax_error", "invalid syntax, line 1"),
        ("    return (", "syntax_error", "'(' was never closed, line 1"),
        ("\n    x = 5y\n", "syntax_error", "invalid decimal literal, line 2"),
    ],
)
def test_text_without_a_program(completion: str, verdict: str, reason: str) -> None:
    found = extract_program(PROMPT, "total", completion)
    assert (found.program, found.verdict, found.reason) == ("", verdict, reason)


@pytest.mark.parametrize(
    "completion",
    [
        "TABLE = []\n\ndef fill():\n    TABLE.append(1)\n\nfill()\n" + FULL,
        "OPS = {}\n\ndef register(f):\n    OPS[f.__name__] = f\n    return f\n\n@register\ndef plus(a, b):\n    return a\n"
        + FULL,
        "class A:\n    pass\n\nsetattr(A, 'x', 1)\n" + FULL,
        "from sys import setrecursionlimit\nsetrecursionlimit(10**5)\n" + FULL,
        "globals()['total'] = lambda xs: sum(xs)\n",
        "exec('def total(xs): return sum(xs)')\n",
    ],
)
def test_a_module_that_parses_runs_whole(completion: str) -> None:
    program = extract_program("Write total.", "total", completion).program
    assert ast.dump(ast.parse(program)) == ast.dump(ast.parse(completion))


def test_uses_of_the_function_are_left_out() -> None:
    text = (
        FULL + "assert total([]) == 1\nprint(total([2]))\nif __name__ == '__main__':\n    print(total([]))\n"
    )
    assert extract_program("Write total.", "total", text).program == FULL


def test_the_first_fence_counts_where_that_is_asked_for() -> None:
    text = f"```python\n{FULL}```\nor\n```python\n{DRAFT}```\n"
    assert extract_program("Write total.", "total", text, fence="first").program == FULL
    assert extract_program("Write total.", "total", text).program == DRAFT


CALL = f"Let me try:\n```python\n{DRAFT}```\nNo.\n"  # thoughts with a draft
ANSWER = f"So:\n```python\n{FULL}```\n"


@pytest.mark.parametrize(("opener", "closer"), THOUGHTS)
def test_thinking_is_no_answer(opener: str, closer: str) -> None:
    assert extract_program(PROMPT, "total", f"{opener}\n{CALL}{closer}\n{ANSWER}").program.endswith(FULL)
    assert extract_program(PROMPT, "total", f"{opener}\n{CALL}").verdict == "no_entry_point"
    assert extract_program(
        PROMPT, "total", f"{opener.upper()}\n{CALL}{closer.upper()}\n{ANSWER}"
    ).program.endswith(FULL)
    if not opener.startswith("analysisWe"):  # a word that a prompt may hold
        assert opened_by(f"<|user|>x<|assistant|>{opener}\n")[0] == opener
        assert opened_by(f"<|assistant|>{opener}\n\n{closer}\n\n") == ("", "")
        assert extract_program(PROMPT, "total", f"{CALL}{closer}\n{ANSWER}").program.endswith(FULL)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\nTAG = '</think>'\n{FULL}```\n",
        f'TAG = """\n</think>\n"""\n{FULL}',
        f"# </think> ends it\nTAG = 1\n{FULL}",
        f"TAG = 1\n{FULL}\n</think>\n",
        f"TAG = 1\n{FULL}<think>\nIs it right?",
        f"TAG = 1\n{FULL}\n<think>\n{DRAFT}</think>\n",
        f"TAGS = ['<think>', '</think>']\nTAG = 1\n{FULL}",
    ],
)
def test_a_thinking_tag_in_or_after_the_code_loses_nothing(text: str) -> None:
    program = extract_program("Write total.", "total", text).program
    assert "TAG =" in program
    assert program.endswith(FULL)


@pytest.mark.parametrize(
    "text",
    [
        FULL.rstrip() + "<eos>",
        FULL.rstrip() + "<eos><pad><pad>",
        "<s> " + FULL,
        "<|python_tag|>" + FULL + "<|eom_id|>",
        "<|im_start|>assistant\n" + FULL + "<|im_end|>\n<|im_start|>user\nThanks",
        "<bos>" + FULL + "<end_of_turn>\n",
        FULL + "<|fim_middle|>x",
        "<answer>" + FULL + "</answer>",
        "Sure.\n<solution>\n" + FULL + "</solution>\nDone.",
        f"<answer>\n```python\n{FULL}```\n</answer>",
        "[PYTHON]\n" + FULL + "[/PYTHON]",
        FULL.rstrip() + "[/INST]",
        f'<pre><code class="language-python">{FULL}</code></pre>',
        f"> ```python\n> {FULL.rstrip().replace(chr(10), chr(10) + '> ')}\n> ```\n",
        f"```Python\n{FULL}```",
        f'"```python\n{FULL}```"',
        f"{'I wonder. ' * 7_000}\n```python\n{FULL}```\n",
        f"{'I wonder. ' * 7_000}\n\n{FULL}",
    ],
)
def test_marks_around_an_answer(text: str) -> None:
    assert extract_program("Write total.", "total", text).program == FULL


def test_a_fence_on_one_line() -> None:
    text = "Use ```def total(xs): return sum(xs)``` here, or ```python def other(): pass```."
    assert extract_program(PROMPT, "total", text).program.endswith("def total(xs): return sum(xs)\n")


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
    "statements, then errors on every line": "x=1\n" * 8_000 + "x y\n" * 7_000,
    "statements, then open brackets": "x=1\n" * 8_000 + "(" * 200,
    "fences full of statements": ("```python\n" + "x=1\n" * 1_900 + "x y\n```\n") * 8,
    "places where code may begin": "a=1\n'''\n" * 6_000,
    "indents that go back and forth": "".join(" " * (i % 90) + "x\n" for i in range(1_300)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(120)  # without a bound these take many minutes
def test_hostile_text_costs_bounded_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_PARSED", program.MAX_PARSED // 5)
    found = extract_program(PROMPT, "total", BOMBS[name])
    assert len(found.program) <= 6 * MAX_COMPLETION_CHARACTERS
    assert found.verdict in ("", "syntax_error", "no_entry_point")
