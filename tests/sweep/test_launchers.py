"""Points that run at the same time, over the toy pipeline: launchers, slots on a machine, no lock errors."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.sweep.__main__ import has_scheduler
from stages.sweep.point_slots import count_slots, hold_slot, slot_share, visible_gpus
from tests.helpers.tiny_project import Done, Project
from tests.helpers.toy_pipeline import (
    LOCK_ERROR,
    experiment_names,
    read_experiment,
    run_sweep,
    summary_rows,
    user_files,
)

THREE = ["rank-4", "rank-5", "rank-6"]


def check_sweep(project: Project, done: Done, names: list[str], before: dict[str, str]) -> None:
    """Check that every point is an experiment, in the table and in sweep.csv; no lock errors, same tree."""
    assert done.status == 0, done.text
    assert not LOCK_ERROR.search(done.text)
    assert experiment_names(project) == names
    assert sorted(summary_rows(done)) == names
    [table] = project.root.glob("reports/sweeps/*/sweep.csv")
    with table.open(encoding="utf-8", newline="") as file:
        found = {row["train.lora.rank"]: float(row["objective"]) for row in csv.DictReader(file)}
    assert found == {name.removeprefix("rank-"): int(name.removeprefix("rank-")) / 100 for name in names}
    assert user_files(project) == before
    assert project.git("status", "--porcelain") == ""
    assert not [
        p
        for p in (project.root / ".cache/sweep").glob("*/*")
        if p.is_dir() and p.parent.name != "hydra" and "rank" in p.name
    ]


@pytest.mark.slow
def test_three_at_once(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    before = user_files(project)
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "sweep.at_once=3")
    done = run_sweep(project, "-m", "train.lora.rank=4,5,6", *joblib)
    check_sweep(project, done, THREE, before)
    own = [json.loads(read_experiment(project, name))["threads"] for name in THREE]
    here = sorted(os.sched_getaffinity(0))
    assert set(own) <= {len(slot_share(here, number, 3)) for number in range(3)}, "the points share the cores"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_launcher_of_the_command_line(toy: Project, tmp_path: Path, launcher: str) -> None:
    project = toy.copy(tmp_path / "project")
    before = user_files(project)
    done = run_sweep(project, "-m", "train.lora.rank=4", f"hydra/launcher={launcher}")
    check_sweep(project, done, THREE[:1], before)


@pytest.mark.slow
def test_slurm_gets_one_job_per_point(toy: Project, tmp_path: Path) -> None:
    """Without Slurm: only what is passed to sbatch."""
    project = toy.copy(tmp_path / "project")
    commands = tmp_path / "commands"
    commands.mkdir()
    script = commands / "sbatch"
    script.write_text(
        f'#!/bin/sh\ncat "$1" > {tmp_path}/submitted\necho no Slurm here >&2\nexit 1\n', "utf-8"
    )
    script.chmod(0o755)
    (commands / "srun").symlink_to("/bin/true")
    options = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.gpus_per_node=1",
    )
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = run_sweep(project, "-m", "train.lora.rank=4,5", *options, env={"PATH": path})
    assert done.status == 1
    assert "no Slurm here" in done.err
    submitted = (tmp_path / "submitted").read_text("utf-8")
    for line in ("--array=0-1", "--partition=gpu", "--gpus-per-node=1"):
        assert line in submitted
    assert experiment_names(project) == []


def test_a_lost_ray_worker_is_one_failed_point(capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    from hydra_plugins.codetune.ray import returned

    def lost(future: str) -> str:
        if future == "killed":
            raise ray.exceptions.WorkerCrashedError
        return future

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", lost)
        assert returned("whole") == "whole"
        assert math.isnan(returned("killed").return_value)
    assert "sweep: Ray lost a point" in capsys.readouterr().err


def test_a_launcher_that_is_not_installed_names_the_install_command(toy: Project) -> None:
    code = (
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if 'joblib_launcher' in name else found(name, *a)\n"
        "import sys; sys.argv = ['sweep', '-m', 'train.lora.rank=4,5', 'hydra/launcher=joblib']\n"
        "import runpy; runpy.run_module('stages.sweep', run_name='__main__')"
    )
    done = toy.run(sys.executable, "-c", code)
    assert done.status == 1
    assert done.err == (
        "error in stage sweep: hydra/launcher=joblib needs hydra_plugins.hydra_joblib_launcher, "
        "which is not installed. Install it: .venv/bin/pip install -e '.[joblib]'\n"
    )


@pytest.mark.parametrize(
    ("launched", "points", "at_once", "gpus", "cores", "expected"),
    [
        (1, 8, 0, 0, 16, 1),  # basic
        (4, 8, 0, 0, 16, 4),  # joblib
        (4, 2, 0, 0, 16, 2),
        (0, 8, 0, 0, 4, 4),  # submitit_local starts all at once
        (0, 8, 0, 2, 16, 2),  # one GPU per point
        (4, 8, 6, 2, 16, 6),  # sweep.at_once
    ],
)
def test_slots(launched: int, points: int, at_once: int, gpus: int, cores: int, expected: int) -> None:
    assert count_slots(launched, points, at_once, gpus, cores) == expected


def test_cores_are_shared_without_overlap() -> None:
    assert [slot_share(range(5), number, 2) for number in range(2)] == [[0, 2, 4], [1, 3]]
    assert [slot_share([3, 7], number, 3) for number in range(3)] == [[3], [7], [3]]
    assert slot_share([], 0, 2) == []


def test_a_slot_is_held_until_it_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    cores = os.sched_getaffinity(0)
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], len(os.sched_getaffinity(0)))"

    def child() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()

    with hold_slot(tmp_path, 2, ("GPU-a", "GPU-b")):
        first = child()
        with hold_slot(tmp_path, 2, ("GPU-a", "GPU-b")):
            second = child()
    assert [first[0], second[0]] == ["GPU-a", "GPU-b"]
    assert int(first[1]) == max(1, len(cores) - len(cores) // 2)
    assert os.sched_getaffinity(0) == cores
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    with hold_slot(tmp_path, 2, ("GPU-a", "GPU-b")):
        assert child()[0] == "GPU-a", "the slot was not freed"


def test_a_single_slot_has_all_gpus(tmp_path: Path) -> None:
    with hold_slot(tmp_path, 1, ("GPU-a", "GPU-b")):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_waiting_for_a_slot_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hold_slot(tmp_path, 1, ())
    other.__enter__()
    monkeypatch.setattr("stages.sweep.point_slots.time.sleep", lambda _: other.__exit__(None, None, None))
    with hold_slot(tmp_path, 1, ()):
        pass
    assert capsys.readouterr().out == "sweep: other points occupy this machine; waiting for one to finish\n"


@pytest.mark.parametrize(
    ("launcher", "address", "expected"),
    [("basic", None, False), ("joblib", None, False), ("submitit_local", None, False), ("submitit_slurm", None, True),
     ("ray", None, False), ("ray", "auto", True)],
)  # fmt: skip
def test_a_scheduler_assigns_gpus_and_cores(launcher: str, address: str | None, expected: bool) -> None:
    choices = SimpleNamespace(choices={"hydra/launcher": launcher})
    hydra = SimpleNamespace(runtime=choices, launcher=SimpleNamespace(address=address))
    assert has_scheduler(hydra) is expected


def test_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ("2", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listing = tmp_path / "nvidia-smi"
    listing.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1f-2)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-3c-4)'\n"
    )
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert visible_gpus() == ("GPU-1f-2", "GPU-3c-4")
