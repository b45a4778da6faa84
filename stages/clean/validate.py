"""Run the tests and doctests that rows carry, in the sandbox of the evaluation (docs/evaluate.md).

Neither the code nor the tests of a row are trusted. They run together in a process of their own that ends
with them: a row can cheat its own tests, but nothing gets out.
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
from stages.clean.row import RowView
from stages.clean.settings import CleanSettings, Validation
from stages.common.core.errors import UserError

if TYPE_CHECKING:
    from stages.judge.pool import Pool
    from stages.judge.verdict import Verdict

CHECK_ENTRY = "row"
CHECK_PROGRAM = f"def {CHECK_ENTRY}():\n    pass\n"
CHECKER_FILE = Path(__file__).with_name("checker.py")
Example = tuple[str, str, str | None, int, tuple[tuple[str, bool], ...]]
CHECKER_MESSAGE = re.compile(rf"(?:{re.escape(FAILED)}|{re.escape(CANNOT_RUN)}).*", re.S)


@dataclass(frozen=True)
class RowCheck:
    """The code and tests of a row to run."""

    id: str
    program: str  # source of the row's code
    tests: str = ""  # Python source
    # Examples of each docstring: source, expected output, expected exception, line, directives
    documents: tuple[tuple[Example, ...], ...] = ()


@dataclass(frozen=True)
class CheckOutcome:
    """The result of a check."""

    id: str
    passed: bool | None  # None: it cannot run in the sandbox
    evidence: str = ""  # why it did not pass; the same in every run


def extract_check(row: RowView) -> RowCheck | None:
    """Return the tests of a row and the doctests of its code, or None if it has neither."""
    documents = extract_doctests(row.code.tree) if ">>>" in row.text and row.code.tree else ()
    if not row.tests and not documents:
        return None
    program = (
        row.text
        if (row.layout == "whole" and row.code.runs) or not row.code.tree
        else ast.unparse(row.code.tree)
    )
    return RowCheck(row.id, program, row.tests, documents)


def extract_doctests(tree: ast.Module) -> tuple[tuple[Example, ...], ...]:
    """Return the examples of each docstring of a module that has any."""
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
            except ValueError:  # bad indentation or a malformed prompt: prose that doctest rejects
                continue
            found.append(tuple(example_of(e, names) for e in examples))
    return tuple(examples for examples in found if examples)


def example_of(example: Any, names: dict[int, str]) -> Example:
    directives = tuple((names[flag], on) for flag, on in sorted(example.options.items()))
    return example.source, example.want, example.exc_msg, example.lineno + 1, directives


def run_checks(checks: Sequence[RowCheck], settings: CleanSettings) -> list[CheckOutcome]:
    """Run checks in sandboxes, one per core of this machine; return outcomes in order.

    Pass some thousands at a time: starting the sandboxes takes 0.2 s, and all checks are held in memory. CPU
    time is the deciding limit. A check that runs out of time is run once more, alone.

    Raises:
        UserError: no strong sandbox is available and `clean.validation.allow_weak_sandbox` is not set, a
            probe escaped the sandbox, or the judge itself failed.
    """
    from stages.common.rows.schema import Problem
    from stages.judge.verdict import Submission

    if not checks:
        return []
    limits = settings.validation
    pool = probed_pool(limits.isolation, limits.cpu_seconds, limits.memory_mib, limits.allow_weak_sandbox)
    flags = list(limits.doctest_flags)
    submissions = [
        Submission(
            Problem(check.id, "", CHECK_ENTRY, CHECK_PROGRAM, checker_program(check, flags)),
            CHECK_PROGRAM,
            test_in_sandbox=True,
        )
        for check in checks
    ]
    return [
        outcome_of(check, verdict, limits)
        for check, verdict in zip(checks, pool.judge_all(submissions), strict=True)
    ]


def sandbox_level(settings: CleanSettings) -> dict[str, Any]:
    """Return the level at which checks run and why it is not higher, for the metrics."""
    limits = settings.validation
    pool = probed_pool(limits.isolation, limits.cpu_seconds, limits.memory_mib, limits.allow_weak_sandbox)
    return {"level": pool.isolation.level, "why": pool.isolation.why}


@lru_cache(maxsize=4)
def probed_pool(isolation: str, cpu_seconds: float, memory_mib: int, allow_weak_sandbox: bool) -> "Pool":
    """Open a pool and probe its sandbox, as the evaluation does.

    Raises:
        UserError: see `run_checks`.
    """
    from stages.judge.pool import Pool
    from stages.judge.sandbox.host import Limits
    from stages.judge.sandbox.levels import detect
    from stages.judge.selftest import run_probes

    found = detect(isolation)
    if found.level == "C" and not allow_weak_sandbox:
        raise UserError(
            "clean.validate runs the code of rows, but only resource limits (level C) are available: a row could "
            f"read files, use the network and start programs. {found.why or 'Level C was requested'}. "
            "Install bubblewrap, set clean.validate=none, or accept the risk with "
            "clean.validation.allow_weak_sandbox=true."
        )
    pool = Pool(found, Limits(cpu_seconds, memory_mib << 20))
    run_probes(pool)
    return pool


def checker_program(check: RowCheck, flags: list[str]) -> str:
    """Return a program that holds the compiled checker and calls it on a check.

    The checker is compiled once, here: compiling it per row took a tenth of a row's time, 0.6 of 6.2 ms.
    """
    arguments = (check.program, check.tests, [list(examples) for examples in check.documents], flags)
    return (
        f"import marshal\nnames = {{'__name__': 'checker'}}\nexec(marshal.loads({compiled_checker()!r}), names)\n"
        f"def check(candidate):\n    names['run_row'](*{arguments!r})\n"
    )


@lru_cache(maxsize=1)
def compiled_checker() -> bytes:
    """Return the marshalled code of checker.py; the sandbox runs the same interpreter."""
    return marshal.dumps(
        compile(CHECKER_FILE.read_text("utf-8"), "<checker>", "exec", dont_inherit=True, optimize=2)
    )


def outcome_of(check: RowCheck, verdict: "Verdict", limits: Validation) -> CheckOutcome:
    """Convert the judge's verdict to an outcome."""
    if verdict.verdict == "passed":
        return CheckOutcome(check.id, True)
    message = CHECKER_MESSAGE.search(verdict.reason)
    if message:
        return CheckOutcome(check.id, None if message[0].startswith(CANNOT_RUN) else False, message[0])
    evidence = {
        "cpu_timeout": f"more than {limits.cpu_seconds:g} s of CPU time",
        "wall_timeout": "it sleeps, or waits for something that does not come",
        "out_of_memory": f"more than {limits.memory_mib} MiB",
    }
    return CheckOutcome(
        check.id, False, FAILED + evidence.get(verdict.verdict, f"{verdict.verdict}: {verdict.reason}")
    )


def rejection_evidence(outcome: CheckOutcome | None, settings: CleanSettings) -> str | None:
    """Return why `clean.validate=require` drops a row, or None to keep it.

    Args:
        outcome: None for a row that has nothing to run.
    """
    if settings.validate != "require":
        return None
    if outcome is not None and outcome.passed is False:
        return outcome.evidence
    if settings.validation.unchecked == "drop" and (outcome is None or outcome.passed is None):
        return outcome.evidence if outcome else "no tests and no doctests"
    return None
