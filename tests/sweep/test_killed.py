"""Kill a sweep, or one of its points, with signal 9, and resume it with the same command."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stages.sweep.clone import POINT_VARIABLE
from stages.train.checkpoints import CHECKPOINTS_FOLDER as CHECKPOINTS
from tests.helpers.judge_samples import wait_for
from tests.helpers.tiny_project import Project, environment
from tests.helpers.toy_pipeline import WAIT_VARIABLE, experiment_names, summary_rows

pytestmark = pytest.mark.slow

DEADLINE = 500.0  # seconds; the machine may be slow


@contextmanager
def waiting_at(project: Project, rank: int, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a sweep and yield it while its point of this rank runs, with the point's log."""
    hold = project.root.parent / "hold"
    hold.mkdir()
    (hold / str(rank)).touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sweep", *arguments],
        cwd=project.root,
        env={**environment(project.root), WAIT_VARIABLE: str(hold)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = wait_for(lambda: next(project.root.glob(f".cache/sweep/*/rank-{rank}.log"), None), DEADLINE)
        assert wait_for(lambda: "begun 1 times" in log.read_text("utf-8"), DEADLINE)
        yield process, log
    finally:
        process.kill()
        process.communicate()


def running_processes(project: Project) -> list[psutil.Process]:
    """Return the processes of the project's points, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(POINT_VARIABLE, "").startswith(str(project.root)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_killed_sweep_resumes_with_its_missing_point(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 8, "-m", "train.lora.rank=8") as (process, log):
        process.kill()
        process.wait()
        left = running_processes(project)
        assert left, "DVC and its stage should outlive the sweep"
        assert experiment_names(project) == []
        # the command that Hydra users try first runs the same sweep
        again = project.run(sys.executable, "-m", "stages.train", "-m", "train.lora.rank=8")
    assert again.status == 0, again.text
    assert {name: row[1] for name, row in summary_rows(again).items()} == {"rank-8": "ran 2 stages"}
    assert "begun 2 times" in log.read_text("utf-8"), "the stage did not find what its first run left"
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert running_processes(project) == []
    assert not list(log.parent.glob("*.kept"))


def test_a_killed_point_leaves_the_others_running(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 4, "-m", "train.lora.rank=4,8") as (process, _):
        for point in running_processes(project):
            if "dvc" in point.cmdline():
                point.kill()
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "`dvc exp run` failed with status -9" in err
    assert "rank-8" in out
    assert experiment_names(project) == ["rank-8"]
    assert running_processes(project) == []


def test_an_interrupted_sweep_leaves_no_process_running(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 8, "-m", "train.lora.rank=8") as (process, log):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err == "sweep: interrupted. Rerun the same command to resume it.\n"
    assert running_processes(project) == []
    assert [p.name for p in log.parent.glob("*.kept/score/begun")] == ["begun"], (
        "the stage's files are not kept"
    )
    assert not (log.parent / log.stem).exists(), "its clone was left behind"


def test_a_stage_keeps_its_checkpoints_where_a_clone_s_are_kept() -> None:
    assert CHECKPOINTS.parts[0] == ".cache"
