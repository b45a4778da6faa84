"""Fenced blocks of answers: which are found, which count as Python, and what of sessions and cells is read."""

import ast

import pytest

from stages.clean.code.syntax import FENCED_BLOCK, read_fenced_code
from tests.helpers.clean_rows import row

F = "```"


def source(text: str) -> str:
    """The Python that is read from an answer, as `ast` writes it; an error after `!`."""
    code = read_fenced_code(text)
    return f"!{code.error}" if code.error else ast.unparse(code.tree) if code.tree else ""


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (f"{F}python", F),
        (f"{F}Python", F),
        (f"{F}py3", F),
        ("~~~python", "~~~"),
        (f"{F}`python", f"{F}`"),
        (f"{F}{{.python .numberLines}}", F),
        (f'{F}python title="a.py" linenums="1"', F),
        (f"   {F}python", f"   {F}"),
        (F, F),
        (f"{F}python", ""),  # an answer that was cut
    ],
)
def test_marks_of_python(opening: str, closing: str) -> None:
    assert source(f"Text.\n\n{opening}\nx = 1\n{closing}") == "x = 1"


@pytest.mark.parametrize("mark", ["js", "bash", "text", "python2", "pycon-like", "diff"])
def test_blocks_in_other_languages_are_not_read(mark: str) -> None:
    assert source(f"{F}{mark}\nnot ( python\n{F}\n") == ""


def test_blocks_are_one_module_and_unmarked_ones_count_only_if_they_parse() -> None:
    text = f"{F}python\nx = 1\n{F}\nand\n{F}\ny = x\n{F}\nprints\n{F}\n1 2 3\n{F}\n"
    assert source(text) == "x = 1\ny = x"
    assert (
        source(f"1. List:\n\n   {F}python\n   def f():\n       return 1\n   {F}\n")
        == "def f():\n    return 1"
    )
    assert source(f"{F}python\nx = (\n{F}\n").startswith("!SyntaxError")


def test_a_longer_fence_holds_a_shorter_one() -> None:
    text = f"{F}`markdown\n{F}python\nx = (\n{F}\n{F}`\n"
    assert [language for _, language, _ in FENCED_BLOCK.findall(text)] == ["markdown"]
    assert row(text, layout="fenced").fences == [("markdown", f"{F}python\nx = (\n{F}\n")]


@pytest.mark.parametrize(
    ("block", "read"),
    [
        (">>> x = 3\n>>> for i in range(x):\n...     print(i)\n...\n0\n1", "x = 3\nfor i in range(x):\n    print(i)"),
        (">>>\n>>> import math\n>>> math.pi\n3.14", "import math\nmath.pi"),
        (">>> 1/0\nTraceback (most recent call last):\n  File x\nZeroDivisionError: x", "1 / 0"),
        ("In [1]: x = 2\n\nIn [2]: def f():\n   ...:     return x\n   ...:\n\nIn [3]: f()\nOut[3]: 2",
         "x = 2\n\ndef f():\n    return x\nf()"),
        ("Traceback (most recent call last):\n  File x", ""),
        ("!pip install -q numpy\nimport numpy", "pass\nimport numpy"),
        ("%pip install numpy\nimport numpy", "pass\nimport numpy"),
        ("pip install numpy\nimport numpy", "pass\nimport numpy"),
        ("$ pip install numpy\n$ python app.py", "pass\npass"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("for i in range(3):\n    !echo {i}", "for i in range(3):\n    pass"),
        ("files = !ls\nout, n = %sql select 1", "files = None\nout, n = None"),
        ("df?\n?len\nx = 1", "pass\npass\nx = 1"),
        ("%%bash\nls -la | grep x", ""),
        ("%%time\nx = 1", "x = 1"),
        ("x = 5\n%timeit x", "x = 5\npass"),
        ("x = (7\n%y\n)", "x = 7 % y"),  # an operator, not a magic
        ("x = '''\n!pip\n%%bash\n'''", "x = '\\n!pip\\n%%bash\\n'"),
    ],
)  # fmt: skip
def test_sessions_and_cells(block: str, read: str) -> None:
    assert source(f"{F}python\n{block}\n{F}\n") == read
