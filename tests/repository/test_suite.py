"""The test run itself: it always ends, and a worker that dies is a failure at once."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_project import REPOSITORY

DEADLY = f"""
import os, time

def test_that_is_killed():
    os.kill(os.getpid(), {int(signal.SIGPROF)})

def test_that_would_wait():
    time.sleep(600)
"""
ENDLESS = """
import time, pytest

@pytest.mark.timeout(2)
def test_that_hangs():
    time.sleep(600)
"""


def workers() -> list[str]:
    """Options by which `make test` spreads tests over processes."""
    options = re.search(r"^WORKERS := (.*)$", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert options, "the Makefile sets WORKERS"
    return shlex.split(options[1])


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder of tests with this repository's settings of pytest."""
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text("utf-8"), "utf-8")
    (tmp_path / "tests").mkdir()
    return tmp_path


def run(suite: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", *workers()],
        cwd=suite,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_by_a_signal_ends_the_run_as_a_failure(suite: Path) -> None:
    for name in ("a", "b", "c"):
        (suite / f"tests/test_{name}.py").write_text(DEADLY, "utf-8")
    done = run(suite)
    assert done.returncode not in (0, 5), done.stdout
    # xdist meets the death when it hears of it, or, sooner, when it sends the next test
    told = ("crashed while running 'tests/test_", "cannot send (already closed?)")
    assert any(words in done.stdout for words in told), done.stdout


@pytest.mark.slow
def test_a_test_that_hangs_fails_at_its_time_limit(suite: Path) -> None:
    (suite / "tests/test_endless.py").write_text(ENDLESS, "utf-8")
    done = run(suite)
    assert done.returncode == 1, done.stdout
    assert "Timeout" in done.stdout


def test_every_test_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    assert 0 < float(pytestconfig.getini("timeout")) <= 600
