"""Tests and doctests of rows: which are run, how the sandbox judges them, and what `require` drops."""

import json
import pickle
from typing import Any

import pytest

from stages.clean import validate
from stages.clean.row import make_row
from stages.clean.settings import CleanSettings, Validation
from stages.clean.validate import CheckOutcome, RowCheck, extract_check, run_checks
from stages.common.core.errors import UserError
from tests.helpers.clean_rows import conversation, row
from tests.helpers.fetch_reading import read_one
from tests.helpers.judge_samples import needs_bwrap

LEVELS = [pytest.param("A", marks=needs_bwrap), "B"]
DOUBLE = 'def double(x):\n    """Twice x.\n\n    >>> double(2)\n    4\n    """\n    return 2 * x\n'


def settings(level: str = "B", **others: Any) -> Validation:
    return Validation(isolation=level, cpu_seconds=0.5, memory_mib=256, **others)


def outcomes(level: str, *rows: tuple[str, str], **others: Any) -> list[tuple[bool | None, str]]:
    """(passed, evidence) of rows of code and tests."""
    checks = [extract_check(row(code, tests=tests or None)) for code, tests in rows]
    assert None not in checks
    found = run_checks([check for check in checks if check], settings(level, **others))
    return [(outcome.passed, outcome.evidence) for outcome in found]


def documented(examples: str, body: str = "return 2 * x") -> str:
    """A function `f` with a docstring."""
    inside = "".join(f"    {line}\n" if line else "\n" for line in examples.split("\n"))
    return f'def f(x=1):\n    r"""Do.\n\n{inside}    """\n    {body}\n'


# What there is to run


def test_a_row_without_tests_and_doctests_has_nothing_to_run() -> None:
    assert extract_check(row("def f():\n    return 1\n")) is None
    assert extract_check(row("# >>> f()\ndef f():\n    return '>>> 1'\n")) is None
    assert extract_check(row('def f():\n    """>>>f()\n    1\n    """\n')) is None, (
        "doctest rejects it as prose"
    )
    assert extract_check(row("def f(:\n    '''>>> f()'''\n")) is None


def test_every_docstring_with_examples() -> None:
    code = (
        '"""Module.\n\n>>> 1\n1\n"""\nclass A:\n    """A.\n\n    >>> A().m()  # doctest: +SKIP\n    >>> 2\n    2\n    """\n'
        '    def m(self):\n        """\n        >>> [][0]\n        Traceback (most recent call last):\n        IndexError: x\n        """\n'
    )
    check = extract_check(row(code))
    assert check is not None
    assert [text.strip().split("\n")[0] for text in check.documents] == ["Module.", "A.", ">>> [][0]"]
    assert pickle.loads(pickle.dumps(check)) == check


def test_the_code_of_a_conversation_is_its_fences() -> None:
    spoken = conversation(("user", "Double?"), ("assistant", f"Yes:\n\n```python\n{DOUBLE}```\n"))
    check = extract_check(spoken)
    assert check is not None
    assert [o.passed for o in run_checks([check], settings())] == [True]


ASSERTS = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]
MBPP = {
    "text": "Add.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ASSERTS,
    "test_setup_code": "",
}
SAYS = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\n"


@pytest.mark.parametrize(
    "given",
    [
        MBPP,
        {"prompt": "# Add.\n", "completion": MBPP["code"], "tests": ASSERTS},
        {"instruction": "Add.", "output": SAYS, "tests": json.dumps(ASSERTS)},
        {"instruction": "Add.", "output": SAYS, "tests": "\n".join(ASSERTS)},
        {"input": "Add.", "output": SAYS, "unit_tests": json.dumps(ASSERTS)},
        {"input": "Add.", "output": SAYS, "unit_tests": ASSERTS},
    ],
)
def test_asserts_in_a_list_pass_right_code_and_fail_wrong_code(given: dict[str, Any]) -> None:
    layout = "fenced" if SAYS in given.values() else "whole"
    found = []
    for code in ("return a + b", "return b + a"):
        raw = {k: v.replace("return a + b", code) if isinstance(v, str) else v for k, v in given.items()}
        made = make_row(
            {"id": "r", "source": "made", "licence": "MIT", "metadata": "{}", **read_one(raw)}, layout
        )
        assert made.tests
        check = extract_check(made)
        assert check is not None
        found.append(check)
    right, wrong = run_checks(found, settings())
    assert right.passed is True
    assert wrong == CheckOutcome(False, f"failed: line 2 of the tests ({ASSERTS[1]}) raised AssertionError")


@pytest.mark.parametrize("tests", [None, [], "[]", "", 7, "[1]", [1]])
def test_an_empty_list_of_asserts_is_not_a_test(tests: Any) -> None:
    record = read_one({"prompt": "Add.", "completion": "x = 1", "tests": tests})
    assert record["tests"] is None
    made = make_row({"id": "r", "source": "made", "licence": "MIT", "metadata": "{}", **record}, "whole")
    assert not made.tests
    assert extract_check(made) is None


# How it is judged

CASES = [
    # doctests
    (DOUBLE, "", True, ""),
    (DOUBLE.replace("2 * x", "x"), "", False, "failed: line 3, >>> double(2): expected 4"),
    (documented(">>> f()\n>>> 3\n3"), "", False, "failed: line 3, >>> f(): expected nothing"),
    (documented(">>> f('a')\n'a...'\n>>> print(' 1   2')\n1 2"), "", True, ""),
    (documented(">>> f()\n1 # doctest: nothing"), "", False, "failed: line 3, >>> f(): expected 1 # doctest: nothing"),
    (documented(">>> 1 == 1\n1\n>>> print('a\\n\\nb')\na\n<BLANKLINE>\nb"), "", True, ""),
    (documented(">>> x = 3\n>>> for i in range(2):\n...     print(i, x)\n0 3\n1 3"), "", True, ""),
    (documented(">>> print('a')  # doctest: +SKIP\nb\n>>> _ = 1"), "", True, ""),
    (
        documented(">>> f()\nTraceback (most recent call last):\n    ...\nValueError: no 1", "raise ValueError('no 1')"),
        *("", True, ""),
    ),
    (
        documented(">>> f()\nTraceback (most recent call last):\nValueError: other", "raise ValueError('no')"),
        *("", False, "failed: line 3, >>> f() raised ValueError"),
    ),
    (
        documented(">>> f()\nTraceback (most recent call last):\nValueError: other  # doctest: +SKIP", "return None"),
        *("", False, "failed: line 3, >>> f(): no exception, expected ValueError: other  # doctest: +SKIP"),
    ),
    (
        "class Bad(Exception):\n    pass\n\n"
        + documented(">>> f()\nTraceback (most recent call last):\nmylib.errors.Bad: why", "raise Bad('why')"),
        *("", True, ""),
    ),
    (documented(">>> f(undefined)\n2"), "", None, "cannot run: line 3, >>> f(undefined): undefined is not in the row"),
    (documented(">>> f()\n2", "return undefined"), "", False, "failed: line 3, >>> f() raised NameError"),
    (documented(">>> from anywhere import f\n>>> f(2)\n4"), "", True, ""),
    (documented(">>> from anywhere import g\n>>> f(2)\n4"), "", None, "cannot run: no module anywhere"),
    ("import numpy as np\n" + DOUBLE, "", None, "cannot run: no module numpy"),
    ("from . import x\n" + DOUBLE, "", None, "cannot run: a relative import"),
    ("1 / 0\n" + DOUBLE, "", False, "failed: the code raised ZeroDivisionError"),
    (DOUBLE, "assert double(2) == 5", False, "failed: line 1 of the tests (assert double(2) == 5) raised AssertionError"),
    # tests
    ("def add(a, b):\n    return a + b\n", "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'\n", True, ""),
    ("def f():\n    return 1\n", "from solution import f\nfrom your_module import f as g\nassert g() == f() == 1", True, ""),
    ("def f():\n    return 1\n", "import pytest\n", None, "cannot run: no module pytest"),
    ("def g():\n    pass\n\ndef f():\n    return 1\n", "def check(c):\n    assert c() == 1\n", True, ""),
    ("def f():\n    return 1\n", "def check(c):\n    assert c() == 2\n", False, "failed: check(candidate) raised AssertionError"),
    ("def f():\n    return 1\n", "def check(c):\n    assert c() == 1\ncheck(f)\n", True, ""),
    ("x = 1\n", "def check(c):\n    pass\n", None, "cannot run: check(candidate), and the row defines no function"),
    ("def f():\n    return 1\n", "def test_f():\n    assert f() == 2\n", False, "failed: test_f raised AssertionError"),
    ("def f():\n    return 1\n", "def test_f(tmp_path):\n    pass\n", None, "cannot run: test_f wants arguments"),
    ("def f():\n    return 1\n", "class TestF:\n    def test_it(self):\n        assert f() == 2\n", False, "failed: TestF.test_it raised AssertionError"),
    (
        "def f():\n    return 1\n",
        "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(f(), 2)\n",
        *(False, "failed: T.test_it"),
    ),
    ("def f():\n    return 1\n", "assert f( == 1", False, "failed: reading the tests raised SyntaxError"),
    # what gets out of hand
    ("def f():\n    while True: pass\n", "f()", False, "failed: more than 0.5 s of CPU time"),
    ("def f():\n    return bytearray(1 << 40)\n", "f()", False, "failed: line 1 of the tests (f()) raised MemoryError"),
    ("import os\ndef f():\n    os._exit(0)\n", "f()", False, "failed: exception: the process ended, or closed its stream, before it answered"),
    ("import sys\ndef f():\n    sys.exit(0)\n", "f()", False, "failed: line 1 of the tests (f()) raised SystemExit"),
    ("def f():\n    return open('/etc/passwd').read()\n", "f()", None, "cannot run: files, network or programs are not there (*)"),
    ("import socket\ndef f():\n    socket.socket()\n", "f()", None, "cannot run: files, network or programs are not there (*)"),
    ("import subprocess\ndef f():\n    subprocess.run(['ls'])\n", "f()", None, "cannot run: files, network or programs are not there (*)"),
    ("import threading\ndef f():\n    threading.Thread(target=f).start()\n", "f()", None, "cannot run: no threads"),
    ("n = int(input())\n", "assert n", None, "cannot run: no input to read"),
    ("x = '\u2028'\n", "a = '\u2028\f'\nassert a == 1", False, "failed: line 2 of the tests (assert a == 1) raised AssertionError"),
    ("def f():\n    return f()\n", "f()", False, "failed: line 1 of the tests (f()) raised RecursionError"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_verdicts(level: str) -> None:
    found = outcomes(level, *((code, tests) for code, tests, _, _ in CASES))
    for (code, tests, passed, evidence), (got, words) in zip(CASES, found, strict=True):
        if evidence.endswith("(*)"):
            words = words.partition("(")[0] + "(*)"  # which error it is depends on the level
        assert (got, words) == (passed, evidence), f"{code}\n{tests}"


def test_evidence_is_the_same_in_every_run() -> None:
    clock = documented(">>> import time, uuid\n>>> object(), time.perf_counter(), uuid.uuid4()\n(1, 2, 3)")
    raises = documented(">>> f()\n1", "raise ValueError(object())")
    first, second = (outcomes("B", (clock, ""), (raises, "")) for _ in range(2))
    assert first == second
    assert [passed for passed, _ in first] == [False, False]


def test_rows_do_not_see_each_other() -> None:
    first = ("import math\nmath.pi = 3\n__builtins__['sum'] = None\ndef f():\n    return 1\n", "f()")
    second = ("import math\ndef f():\n    return math.pi\n", "assert f() > 3.1 and sum([1]) == 1")
    assert [passed for passed, _ in outcomes("B", first, second, first, second)] == [True] * 4


def test_without_a_sandbox_nothing_runs_unless_the_risk_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    check = extract_check(row(DOUBLE))
    assert check is not None
    with pytest.raises(UserError, match="allow_weak_sandbox=true"):
        run_checks([check], settings("C"))
    weak = settings("C", allow_weak_sandbox=True)
    assert run_checks([check], weak) == [CheckOutcome(True)]
    assert validate.probed_pool(weak, "clean").isolation.level == "C"
    assert run_checks([], settings("C")) == [], "nothing to run needs no sandbox"


def test_a_sandbox_that_lets_a_probe_out_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.judge import selftest

    monkeypatch.setattr(selftest, "ESCAPES", {"always": "return 1"})
    monkeypatch.setattr(validate, "probed_pool", validate.probed_pool.__wrapped__)
    with pytest.raises(UserError, match="does not stop: always"):
        run_checks([RowCheck("r", DOUBLE)], settings())


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"clean\.validate is 'False'.*one of none, tag, require"):
        CleanSettings(validate="False")  # what YAML makes of `off`
    with pytest.raises(ValueError, match=r"clean\.validate is 'on'"):
        CleanSettings(validate="on")
    with pytest.raises(ValueError, match=r"clean\.validation\.unchecked is 'x'"):
        Validation(unchecked="x")
