"""Run the tests and doctests that rows carry, in the sandbox of the evaluation (docs/evaluate.md).

Neither the code nor the tests of a row are trusted. They run together in a process of their own that ends
with them: a row can cheat its own tests, but nothing gets out.
"""

import ast
import contextlib
import marshal
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.clean.checker import CANNOT_RUN, FAILED
from stages.clean.row import RowView
from stages.clean.row_table import RowTable, read_part
from stages.clean.settings import CleanSettings, Validation
from stages.common.core.errors import UserError

if TYPE_CHECKING:
    from stages.judge.pool import Pool
    from stages.judge.verdict import Verdict

CHECK_ENTRY = "row"
CHECK_PROGRAM = f"def {CHECK_ENTRY}():\n    pass\n"
CHECKER_FILE = Path(__file__).with_name("checker.py")
NOT_RUN, WRONG, PASSED = -1, 0, 1
SWITCHES = {
    "clean": "clean.validate=none",
    "sample": "sample.samples=0",
}  # who runs code, and what it takes not to
CHECKER_MESSAGE = re.compile(rf"(?:{re.escape(FAILED)}|{re.escape(CANNOT_RUN)}).*", re.S)


@dataclass(frozen=True)
class RowCheck:
    """The code and tests of a row to run."""

    id: str
    program: str  # source of the row's code
    tests: str = ""  # Python source
    documents: tuple[str, ...] = ()  # docstrings with examples


@dataclass(frozen=True)
class CheckOutcome:
    """The result of a check."""

    passed: bool | None  # None: it cannot run in the sandbox
    evidence: str = ""  # why it did not pass; the same in every run


NOTHING_TO_RUN = CheckOutcome(None, "no tests and no doctests")


def extract_check(row: RowView) -> RowCheck | None:
    """Return the tests of a row and the doctests of its code, or None if it has neither."""
    documents = documented_examples(row.code.tree) if ">>>" in row.text and row.code.tree else ()
    if not row.tests and not documents:
        return None
    program = (
        row.text
        if (row.layout == "whole" and row.code.runs) or not row.code.tree
        else ast.unparse(row.code.tree)
    )
    return RowCheck(row.id, program, row.tests, documents)


def documented_examples(tree: ast.Module) -> tuple[str, ...]:
    """Return each docstring of a module with examples that doctest reads."""
    import doctest

    kinds = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    texts = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, kinds))
    found = []
    for text in texts:
        # bad indentation or a malformed prompt: prose that doctest rejects
        with contextlib.suppress(ValueError):
            if text and ">>>" in text and doctest.DocTestParser().get_examples(text):
                found.append(text)
    return tuple(found)


def run_checks(checks: Sequence[RowCheck], limits: Validation, section: str = "clean") -> list[CheckOutcome]:
    """Run checks in sandboxes, one per core of this machine; return outcomes in order.

    Pass some thousands at a time: starting the sandboxes takes 0.2 s, and all checks are held in memory. CPU
    time is the deciding limit. A check that runs out of time is run once more, alone.

    Raises:
        UserError: no strong sandbox is available and `validation.allow_weak_sandbox` of the section is not set,
            a probe escaped the sandbox, or the judge itself failed.
    """
    from stages.common.rows.schema import Problem
    from stages.judge.verdict import Submission

    if not checks:
        return []
    pool = probed_pool(limits, section)
    submissions = [
        Submission(
            Problem(check.id, "", CHECK_ENTRY, CHECK_PROGRAM, checker_program(check)),
            CHECK_PROGRAM,
            test_in_sandbox=True,
        )
        for check in checks
    ]
    return [outcome_of(verdict, limits) for verdict in pool.judge_all(submissions)]


@lru_cache(maxsize=4)
def probed_pool(limits: Validation, section: str) -> "Pool":
    """Open a pool and probe its sandbox, as the evaluation does.

    Raises:
        UserError: see `run_checks`.
    """
    from stages.judge.pool import Pool
    from stages.judge.sandbox.host import Limits
    from stages.judge.sandbox.levels import detect
    from stages.judge.selftest import run_probes

    found = detect(limits.isolation)
    if found.level == "C" and not limits.allow_weak_sandbox:
        raise UserError(
            f"{section} runs the code of rows, but only resource limits (level C) are available: a row could "
            f"read files, use the network and start programs. {found.why or 'Level C was requested'}. "
            f"Install bubblewrap, set {SWITCHES[section]}, or accept the risk with "
            f"{section}.validation.allow_weak_sandbox=true."
        )
    pool = Pool(replace(found, preloaded=["doctest"]), Limits(limits.cpu_seconds, limits.memory_mib << 20))
    run_probes(pool)
    return pool


def checker_program(check: RowCheck) -> str:
    """Return a program that holds the compiled checker and calls it on a check.

    The checker is compiled once, here: compiling it per row took a tenth of a row's time, 0.6 of 6.2 ms.
    """
    arguments = (check.program, check.tests, [*check.documents])
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


def outcome_of(verdict: "Verdict", limits: Validation) -> CheckOutcome:
    """Convert the judge's verdict to an outcome."""
    if verdict.verdict == "passed":
        return CheckOutcome(True)
    message = CHECKER_MESSAGE.search(verdict.reason)
    if message:
        return CheckOutcome(None if message[0].startswith(CANNOT_RUN) else False, message[0])
    evidence = {
        "cpu_timeout": f"more than {limits.cpu_seconds:g} s of CPU time",
        "wall_timeout": "it sleeps, or waits for something that does not come",
        "out_of_memory": f"more than {limits.memory_mib} MiB",
    }
    return CheckOutcome(False, FAILED + evidence.get(verdict.verdict, f"{verdict.verdict}: {verdict.reason}"))


def validate_rows(
    row_table: RowTable, parts: Path, settings: CleanSettings
) -> tuple[np.ndarray, dict[int, str]]:
    """Run the tests and doctests of the rows that passed the rules.

    Returns:
        int8 [n]: NOT_RUN, WRONG or PASSED; and the evidence for each row that `clean.validate=require` drops,
        by row number.
    """
    validated = np.full(len(row_table.dropped_by), NOT_RUN, np.int8)
    rejections: dict[int, str] = {}
    for number, rows in row_table.parts:
        places = np.flatnonzero(row_table.dropped_by[rows] < 0)
        pickled = read_part(parts, number).column("check").take(places).to_pylist()
        checks = {
            row: pickle.loads(c) for row, c in zip((rows.start + places).tolist(), pickled, strict=True) if c
        }
        outcomes = dict(zip(checks, run_checks([*checks.values()], settings.validation), strict=True))
        for row in (rows.start + places).tolist():
            outcome = outcomes.get(row, NOTHING_TO_RUN)
            if outcome.passed is not None:
                validated[row] = PASSED if outcome.passed else WRONG
            if outcome.passed is False or (not outcome.passed and settings.validation.unchecked == "drop"):
                rejections[row] = outcome.evidence
    return validated, rejections if settings.validate == "require" else {}


def validation_counts(validated: np.ndarray, limits: Validation) -> dict[str, Any]:
    """Count rows whose checks passed, failed, or could not run, and name the sandbox level."""
    states = {"passed": PASSED, "failed": WRONG, "not_run": NOT_RUN}
    isolation = probed_pool(limits, "clean").isolation
    counts = {name: int((validated == state).sum()) for name, state in states.items()}
    return {**counts, "level": isolation.level, "why": isolation.why}
