"""What tests of the judge share: a problem, limits, the hostile completions, and what is looked at for leftovers."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stages.common.schema import Problem
from stages.judge.sandbox.host import Limits

HOSTILE = sorted((Path(__file__).parents[1] / "hostile").glob("*.py"))
LIMITS = Limits(cpu_seconds=0.3, memory_bytes=256 << 20, wall_factor=6)
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
    """Why bubblewrap is of no use here, "" where it is."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    tried = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--unshare-user", "true"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"bubblewrap does not work here: {done.stderr.strip()}"


needs_bwrap = pytest.mark.skipif(bool(no_bwrap()), reason=no_bwrap())


def below(pid: int) -> list[int]:
    """All processes below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *below(int(child))]
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return "supervisor"  # it ended meanwhile


def wait_for(condition: Any, seconds: float = 20.0) -> Any:
    """The first true value of a condition, looked at again and again; its last value after so long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def hostile_text(path: Path) -> str:
    """A hostile completion as the judge gets it: bytes that are no UTF-8 as lone surrogates, `@5 x@` as xxxxx."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return re.sub(r"@(\d+) ([^@]+)@", lambda found: found[2] * int(found[1]), text)


def expected_verdicts(path: Path) -> set[str]:
    """The verdicts that a hostile completion's first line names."""
    return set(hostile_text(path).splitlines()[0].rpartition("-> ")[2].split("|"))
