"""A sweep, or one of its points, killed with signal 9: the same command does only what is missing."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stages.sweep.clone import POINT
from stages.train.checkpoints import CHECKPOINTS_FOLDER as CHECKPOINTS
from tests.helpers.judge_samples import wait_for
from tests.helpers.tiny_project import Project, environment
from tests.helpers.toy_pipeline import WAIT, experiments, made, rows, short, sweep

pytestmark = pytest.mark.slow

DEADLINE = 120.0  # seconds


@contextmanager
def waiting_at(project: Project, rank: int, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A sweep whose point of this rank is at work, and its log."""
    hold = project.root.parent / "hold"
    hold.mkdir()
    (hold / str(rank)).touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sweep", *arguments],
        cwd=project.root,
        env={**environment(project.root), WAIT: str(hold)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = wait_for(lambda: next(project.root.glob(f".cache/sweep/*/rank-{rank}-*.log"), None), DEADLINE)
        assert wait_for(lambda: "begun 1 times" in log.read_text("utf-8"), DEADLINE)
        yield process, log
    finally:
        process.kill()
        process.communicate()


def at_work(project: Project) -> list[psutil.Process]:
    """Processes of the project's points, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(POINT, "").startswith(str(project.root)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_killed_sweep_goes_on_with_what_is_missing(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 8, "-m", "train.lora.rank=4,8") as (process, log):
        process.kill()
        process.wait()
        left = at_work(project)
        assert left, "DVC and its stage outlive the sweep"
        assert short(experiments(project)) == ["rank-4"]
        # what Hydra users type first is the same sweep
        again = project.run(sys.executable, "-m", "stages.train", "-m", "train.lora.rank=4,8")
    assert again.status == 0, again.text
    assert {name: row[1] for name, row in rows(again).items()} == {
        "rank-4": "there already",
        "rank-8": "ran 2 stages",
    }
    assert "begun 2 times" in log.read_text("utf-8"), "the stage found what it left off at"
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert at_work(project) == []
    assert not list(log.parent.glob("*.kept"))


def test_a_killed_point_ends_no_other(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 4, "-m", "train.lora.rank=4,8") as (process, _):
        for point in at_work(project):
            if "dvc" in point.cmdline():
                point.kill()
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "`dvc exp run` ended with status -9" in err
    assert "rank-8" in out
    assert short(experiments(project)) == ["rank-8"]
    assert at_work(project) == []
    again = sweep(project, "-m", "train.lora.rank=4,8")
    assert {name: row[1] for name, row in rows(again).items()} == {
        "rank-4": "ran 2 stages",
        "rank-8": "there already",
    }
    assert '"pass_at_1": 0.04' in made(project, "rank-4")


def test_an_interrupted_sweep_leaves_nothing_at_work(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    with waiting_at(project, 8, "-m", "train.lora.rank=8") as (process, log):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err == "sweep: interrupted. The same command does what is missing.\n"
    assert at_work(project) == []
    assert [p.name for p in log.parent.glob("*.kept/score/begun")] == ["begun"], "what it can go on from"
    assert not (log.parent / log.stem).exists(), "its clone is gone"


def test_a_stage_keeps_its_checkpoints_where_a_clone_s_are_kept() -> None:
    assert CHECKPOINTS.parts[0] == ".cache"
