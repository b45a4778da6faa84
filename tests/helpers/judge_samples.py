"""Shared by tests of the judge: a problem, limits, hostile completions, the search for processes."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stages.common.rows.schema import Problem
from stages.judge.sandbox.host import Limits

HOSTILE = sorted((Path(__file__).parents[1] / "hostile").glob("*.py"))
LIMITS = Limits(cpu_seconds=0.3, memory_bytes=256 << 20, wall_factor=30)
TEST = """
def check(candidate):
    import random
    assert candidate([1, 2, 3]) == 6
    assert candidate([]) == 0
    for _ in range(10):
        numbers = [random.randint(-9, 9) for _ in range(5)]
        assert candidate(numbers) == sum(numbers)
    assert numbers == numbers[:] and len(numbers) == 5
"""
SUM = Problem(
    "sum",
    'def solve(numbers):\n    """The sum of the numbers."""\n',
    "solve",
    "    return sum(numbers)\n",
    TEST,
)


def no_bwrap() -> str:
    """Return why bubblewrap does not work here, "" where it does."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--unshare-user", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"bubblewrap does not work here: {done.stderr.strip()}"


needs_bwrap = pytest.mark.skipif(bool(no_bwrap()), reason=no_bwrap())


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return "supervisor"  # it has ended


def wait_for(condition: Any, seconds: float = 120.0) -> Any:
    """Poll a condition and return its first true value, or its last value after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def hostile_text(path: Path) -> str:
    """Return a hostile completion as the judge gets it: bad UTF-8 as lone surrogates, `@5 x@` as xxxxx."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return re.sub(r"@(\d+) ([^@]+)@", lambda found: found[2] * int(found[1]), text)


def expected_verdicts(path: Path) -> set[str]:
    """Return the verdicts that a hostile completion's first line allows; what is refused is named so."""
    words = set(hostile_text(path).splitlines()[0].rpartition("-> ")[2].split("|"))
    return words | ({"unsupported"} if "exception" in words else set())
