"""Runs the tests and doctests that rows carry, in the evaluation's sandbox (docs/evaluate.md).

The code and the tests of a row are both a stranger's. They run together, in a process of their own that ends with
them: a row that is out to pass can, but nothing gets out.
"""

import ast
import marshal
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.clean.checker import CANNOT_RUN, FAILED
from stages.clean.row import Row
from stages.clean.settings import CleanSettings, Validation
from stages.common.errors import UserError

if TYPE_CHECKING:
    from stages.judge.pool import Pool
    from stages.judge.verdict import Verdict

ENTRY = "row"
PROGRAM = f"def {ENTRY}():\n    pass\n"
CHECKER = Path(__file__).with_name("checker.py")
Example = tuple[str, str, str | None, int, tuple[tuple[str, bool], ...]]
WORDS = re.compile(rf"(?:{re.escape(FAILED)}|{re.escape(CANNOT_RUN)}).*", re.S)


@dataclass(frozen=True)
class Check:
    """What there is to run of a row."""

    id: str
    program: str  # source of the row's code
    tests: str = ""  # Python source
    # For each docstring its examples: source, expected output, expected exception, line, directives
    documents: tuple[tuple[Example, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a check."""

    id: str
    passed: bool | None  # None: it cannot be run in the sandbox
    evidence: str = ""  # why it did not pass; the same in every run


def check_of(row: Row) -> Check | None:
    """What a row brings to check it: its tests, and the examples in docstrings of its code. None: nothing."""
    documents = doctests(row.code.tree) if ">>>" in row.text and row.code.tree else ()
    if not row.tests and not documents:
        return None
    program = row.text if row.layout == "whole" or not row.code.tree else ast.unparse(row.code.tree)
    return Check(row.id, program, row.tests, documents)


def doctests(tree: ast.Module) -> tuple[tuple[Example, ...], ...]:
    """Examples of each docstring of a module that has any."""
    import doctest

    names = {flag: name for name, flag in doctest.OPTIONFLAGS_BY_NAME.items()}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        text = ast.get_docstring(node, clean=False)
        if text and ">>>" in text:
            try:
                examples = doctest.DocTestParser().get_examples(text)
            except ValueError:  # an indent or a prompt that is off: prose, to doctest an error
                continue
            found.append(tuple(example_of(e, names) for e in examples))
    return tuple(examples for examples in found if examples)


def example_of(example: Any, names: dict[int, str]) -> Example:
    directives = tuple((names[flag], on) for flag, on in sorted(example.options.items()))
    return example.source, example.want, example.exc_msg, example.lineno + 1, directives


def run_checks(checks: Sequence[Check], settings: CleanSettings) -> list[Outcome]:
    """Run checks in sandboxes, one a core of this machine; outcomes in their order.

    Some thousands at a time: starting the sandboxes takes 0.2 s, and what is given is held. CPU time decides. A check
    that ran out of time is run once more, alone.

    Raises:
        UserError: no sandbox is to be had and `clean.validation.allow_weak_sandbox` is not set, a probe got out of
            it, or the judge itself failed.
    """
    from stages.common.schema import Problem
    from stages.judge.pool import Submission

    if not checks:
        return []
    limits = settings.validation
    pool = open_pool(limits.isolation, limits.cpu_seconds, limits.memory_mib, limits.allow_weak_sandbox)
    flags = list(limits.doctest_flags)
    samples = [
        Submission(
            Problem(check.id, "", ENTRY, PROGRAM, test_program(check, flags)), PROGRAM, test_in_sandbox=True
        )
        for check in checks
    ]
    return [
        outcome(check, verdict, limits)
        for check, verdict in zip(checks, pool.judge_all(samples), strict=True)
    ]


def isolation(settings: CleanSettings) -> dict[str, Any]:
    """Level at which checks run, and why no higher; for the metrics."""
    limits = settings.validation
    pool = open_pool(limits.isolation, limits.cpu_seconds, limits.memory_mib, limits.allow_weak_sandbox)
    return {"level": pool.isolation.level, "why": pool.isolation.why}


@lru_cache(maxsize=4)
def open_pool(isolation: str, cpu_seconds: float, memory_mib: int, allow_weak_sandbox: bool) -> "Pool":
    """A pool whose sandbox was probed, as the evaluation does it.

    Raises:
        UserError: as `run_checks`.
    """
    from stages.judge.pool import Pool
    from stages.judge.sandbox.host import Limits
    from stages.judge.sandbox.levels import detect
    from stages.judge.selftest import run_probes

    found = detect(isolation)
    if found.level == "C" and not allow_weak_sandbox:
        raise UserError(
            "clean.validate runs the code of rows, and only resource limits are to be had here: a row could read files, "
            f"use the network and start programs. {found.why or 'Level C was asked for'}. Install bubblewrap, set "
            "clean.validate=none, or take the risk with clean.validation.allow_weak_sandbox=true."
        )
    pool = Pool(found, Limits(cpu_seconds, memory_mib << 20))
    run_probes(pool)
    return pool


def test_program(check: Check, flags: list[str]) -> str:
    """The checker, and a call of it with what is to be run.

    Compiled here, once: to compile it anew for each row took a tenth of the row's time, 0.6 of 6.2 ms.
    """
    arguments = (check.program, check.tests, [list(examples) for examples in check.documents], flags)
    return (
        f"import marshal\nnames = {{'__name__': 'checker'}}\nexec(marshal.loads({checker()!r}), names)\n"
        f"def check(candidate):\n    names['run'](*{arguments!r})\n"
    )


@lru_cache(maxsize=1)
def checker() -> bytes:
    """Code of checker.py for the interpreter that runs this, which is the sandbox's too."""
    return marshal.dumps(
        compile(CHECKER.read_text("utf-8"), "<checker>", "exec", dont_inherit=True, optimize=2)
    )


def outcome(check: Check, verdict: "Verdict", limits: Validation) -> Outcome:
    """The judge's verdict as an outcome."""
    if verdict.verdict == "passed":
        return Outcome(check.id, True)
    words = WORDS.search(verdict.reason)
    if words and words[0].startswith(CANNOT_RUN):
        return Outcome(check.id, None, words[0])
    if words:
        return Outcome(check.id, False, words[0])
    evidence = {
        "cpu_timeout": f"more than {limits.cpu_seconds:g} s of CPU time",
        "wall_timeout": "it sleeps, or waits for something that does not come",
        "out_of_memory": f"more than {limits.memory_mib} MiB",
    }
    return Outcome(
        check.id, False, FAILED + evidence.get(verdict.verdict, f"{verdict.verdict}: {verdict.reason}")
    )


def rejected(outcome: Outcome | None, settings: CleanSettings) -> str | None:
    """Why `clean.validate=require` drops a row with this outcome (None: it has nothing to run), or None: it stays."""
    if settings.validate != "require":
        return None
    if outcome is not None and outcome.passed is False:
        return outcome.evidence
    if settings.validation.unchecked == "drop" and (outcome is None or outcome.passed is None):
        return outcome.evidence if outcome else "no tests and no doctests"
    return None
