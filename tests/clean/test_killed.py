"""The command of clean when it is killed, or when the disk is full: what was there stays, the next run is right."""

import os
import shutil
import signal
import subprocess
import sys
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
from tests.helpers.judge_samples import wait_for
from tests.helpers.tiny_project import REPOSITORY, generated_functions
from tests.pipeline.test_inputs import namespace

GROUPS, ROWS = 16, 4  # many row groups, so that there is a middle to be killed in
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


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def killed(folder: Path, point: str, *arguments: str) -> None:
    """Run the stage until it kills itself at a point."""
    command = [sys.executable, "-m", "tests.helpers.killed_clean", point, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


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
    killed(project, "map", OTHER, "engine.workers=2")
    workers = [int(pid) for pid in (project / "workers").read_text().split()]
    assert len(workers) >= 2
    assert list(scratch.glob("rows-*.arrow")), "it was killed in the middle"
    assert not unfinished.exists()
    assert sha256_folder(project / "data/clean") == before
    assert wait_for(lambda: not any(map(alive, workers))), "a process of the killed stage lives on"
    killed(project, "rename", OTHER, "engine.workers=1")
    assert scratch.exists()
    assert (unfinished / "rows.parquet").exists()
    assert sha256_folder(project / "data/clean") == before
    assert cleaned(Placeholder(stubs=False)) == expected
    assert not scratch.exists()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_under_the_parts_is_one_message(project: Path, workers: int) -> None:
    before = sha256_folder(project / "data/clean")
    (project / ".cache").mkdir(exist_ok=True)
    small = "mount -t tmpfs -o size=48k tmpfs .cache || exit 99; "
    small += f"exec {sys.executable} -m stages.clean engine.workers={workers}"
    done = subprocess.run(
        [*namespace("--mount"), "sh", "-c", small],
        cwd=project, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert done.stderr.startswith("error in stage clean: the disk is full"), done.stderr
    assert done.stderr.count("\n") == 1
    assert sha256_folder(project / "data/clean") == before
    assert [path.name for path in (project / "data").iterdir() if path.name.startswith(".")] == []
    assert list((project / ".cache").iterdir()) == []
