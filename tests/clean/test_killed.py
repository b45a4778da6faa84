"""The command of clean when it is killed, or when the disk is full: what was there stays, the next run is right."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from stages.clean.__main__ import main
from stages.clean.rules.code import Placeholder
from stages.clean.settings import CleanSettings
from stages.common.core.files import sha256_folder
from stages.common.engine import EngineSettings
from tests.helpers.clean_rows import CLAMP, RUNS, record, write_inputs
from tests.helpers.tiny_project import REPOSITORY, generated_functions
from tests.pipeline.test_inputs import namespace
from tests.pipeline.test_reruns import descendants

PATIENCE = 60  # seconds for a process of ours to come as far as it must
GROUPS, ROWS = 80, 4  # many row groups, so that there is a middle to be killed in
OTHER = "clean.placeholder.stubs=false"  # a run with another result than the one that is there


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that was cleaned."""
    stub = record("stub", "def later(a):\n", "    raise NotImplementedError\n")
    made = [
        record(f"{n:05}", r["prompt"], r["completion"])
        for n, r in enumerate(generated_functions(GROUPS * ROWS))
    ]
    write_inputs(tmp_path, [*made, stub], [RUNS, CLAMP])
    raw = tmp_path / "data/raw/rows.parquet"
    pq.write_table(pq.read_table(raw), raw, row_group_size=ROWS)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/config.yaml").write_text("clean: {}\nengine: {}\n")
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    cleaned(Placeholder())
    return tmp_path


def cleaned(placeholder: Placeholder) -> str:
    """Clean in this process; the hash of data/clean."""
    settings = CleanSettings(placeholder=placeholder)
    main(SimpleNamespace(clean=settings, engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    return sha256_folder("data/clean")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stages.clean", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def killed(folder: Path, reached: Callable[[], bool], *arguments: str) -> list[int]:
    """Run the stage and kill it with SIGKILL as soon as it is so far; the processes that it had started."""
    running = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert running.poll() is None, "the stage ended before it was killed"
            assert time.monotonic() < end, "the stage did not come so far"
        os.kill(running.pid, signal.SIGSTOP)  # it goes no further while its processes are listed
        started = [pid for pid, _ in descendants(running.pid)]
    finally:
        running.kill()
        assert running.wait(PATIENCE) == -signal.SIGKILL
    return started


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_killed_run_leaves_what_was_there_and_the_next_one_is_right(project: Path) -> None:
    expected = cleaned(Placeholder(stubs=False))
    before = cleaned(Placeholder())
    assert before != expected
    scratch, unfinished = project / ".cache/clean", project / "data/.clean.tmp"
    in_the_map = killed(
        project, lambda: len(list(scratch.glob("rows-*.arrow"))) > 2, OTHER, "engine.workers=2"
    )
    assert len(in_the_map) >= 2
    assert scratch.exists(), "it was killed in the middle"
    assert not unfinished.exists()
    assert sha256_folder(project / "data/clean") == before
    end = time.monotonic() + PATIENCE
    while any(map(alive, in_the_map)):
        assert time.monotonic() < end, "a process of the killed stage lives on"
        time.sleep(0.01)
    killed(project, (unfinished / "rows.parquet").exists, OTHER, "engine.workers=1")
    assert scratch.exists()
    assert unfinished.exists()
    assert sha256_folder(project / "data/clean") == before
    subprocess.run(
        command(OTHER, "engine.workers=1"), cwd=project, env=environment(), check=True, timeout=PATIENCE
    )
    assert sha256_folder(project / "data/clean") == expected
    assert not scratch.exists()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_under_the_parts_is_one_message(project: Path, workers: int) -> None:
    before = sha256_folder(project / "data/clean")
    (project / ".cache").mkdir(exist_ok=True)
    small = "mount -t tmpfs -o size=256k tmpfs .cache || exit 99; exec " + " ".join(
        command(f"engine.workers={workers}")
    )
    done = subprocess.run(
        [*namespace("--mount"), "sh", "-c", small],
        cwd=project, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert done.stderr.startswith("error in stage clean: the disk is full"), done.stderr
    assert done.stderr.count("\n") == 1
    assert sha256_folder(project / "data/clean") == before
    assert [path.name for path in (project / "data").iterdir() if path.name.startswith(".")] == []
    assert list((project / ".cache").iterdir()) == []
