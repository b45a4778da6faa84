"""What reruns, and that it gives the same bytes: the tiny pipeline through real `dvc repro`."""

import csv
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.sweep.point import parse_ran_stages
from tests.helpers.tiny_project import REPOSITORY, STAGES, Project, environment
from tests.helpers.toy_pipeline import experiment_names, run_sweep, summary_rows, user_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

AFTER_TRAINING = ["merge", "evaluate@tuned", "report", "track"]
NEVER_CACHED = [
    "config",
    "track",
]  # a second or two; they run again where all else comes back from DVC's run cache
ARTIFACTS = ("data/clean", "data/packed", "models/adapter", "models/merged")
PATIENCE = 120  # seconds for a process of ours to come as far as it must


def a_comment_and_an_unselected_option(project: Project) -> None:
    with (project.root / "conf/train/qlora.yaml").open("a") as file:
        file.write("# a thought\n")
    assert project.repro().ran == ["config"]
    with (project.root / "conf/clean/off.yaml").open("a") as file:
        file.write("layout: body\n")
    assert project.repro().ran == ["config"]


def a_clean_threshold(project: Project) -> None:
    project.params(clean__near_duplicates__threshold=0.5)
    assert project.repro().ran == ["config", "clean", "pack", "train", *AFTER_TRAINING]
    assert json.loads((project.root / "reports/clean.json").read_text("utf-8"))["dropped"]["near"] == 1


def an_evaluation_temperature(project: Project) -> None:
    project.params(evaluate__temperature=0.7)
    assert project.repro().ran == ["config", "evaluate@base", "evaluate@tuned", "report", "track"]


def a_line_of_code(project: Project) -> None:
    before = project.files("models")
    with (project.root / "stages/merge/__main__.py").open("a") as file:
        file.write("# one line more\n")
    assert project.repro().ran == ["merge"], "the merged model and its figures are the same"
    assert project.files("models") == before


def a_line_of_the_judge(project: Project) -> None:
    assert project.composed("clean", "validate") == "none", "no row's code is run"
    with (project.root / "stages/judge/pool.py").open("a") as file:
        file.write("# one line more\n")
    ran = project.repro().ran
    assert ran == ["config", "evaluate@base", "evaluate@tuned"], "equal verdicts rerun nothing"


def a_rank_its_revert_and_its_experiment(project: Project) -> None:
    before = project.files()
    project.params(train__lora__rank=8)
    assert project.repro().ran == ["config", "train", *AFTER_TRAINING]
    wide = project.files("models", "reports/evaluate")
    assert wide != {name: sha for name, sha in before.items() if name in wide}

    project.git("checkout", "--quiet", "params.yaml")
    assert project.repro().ran == NEVER_CACHED, "all else comes back from DVC's run cache"
    assert project.files() == before

    made = project.dvc("exp", "run", "--name", "wide", "--set-param", "++train.lora.rank=8")
    assert made.ran == NEVER_CACHED
    project.git("checkout", "--quiet", ".")
    project.dvc("checkout")
    assert project.files() == before

    project.dvc("exp", "apply", "wide")
    assert project.repro().ran == []
    assert project.files("models", "reports/evaluate") == wide


def a_sweep_over_two_ranks(project: Project) -> None:
    """As after `make demo` in a fresh clone: results of a run that nobody has committed, then a sweep.

    Of the two ranks the first is what params.yaml says, and has been run.
    """
    project.git("reset", "--quiet", "HEAD~1")
    before, status = user_files(project), project.git("status", "--porcelain")
    assert "dvc.lock" in status
    assert runs_by_rank(project) == {"4": 1}
    done = run_sweep(project, "-m", "train.lora.rank=4,6", "sweep.name=ranks")
    assert done.status == 0, done.text
    assert summary_rows(done)["rank-4"][1] == "from the cache"
    assert summary_rows(done)["rank-6"][1] == "ran 6 stages"
    log = next((project.root / ".cache/sweep").rglob("rank-6*.log")).read_text("utf-8")
    assert sorted(parse_ran_stages(log)) == sorted(["config", "train", *AFTER_TRAINING])
    assert experiment_names(project) == ["rank-4", "rank-6"]
    assert runs_by_rank(project) == {"4": 1, "6": 1}
    assert user_files(project) == before
    the_sweep_in_mlflow(project)
    with (project.root / "reports/sweeps/ranks/sweep.csv").open(encoding="utf-8", newline="") as file:
        table = {row["train.lora.rank"]: row for row in csv.DictReader(file)}
    assert set(table) == {"4", "6"}
    assert all(
        float(row["validation_loss"]) > 0 and row["p_holm"] and row["seconds"] for row in table.values()
    )
    assert project.git("status", "--porcelain") == status
    compared = compare(project)
    assert all(name in compared for name in experiment_names(project))
    assert "params.yaml:train.lora.rank" in compared
    assert "models/adapter" not in compared

    project.dvc("exp", "apply", experiment_names(project)[1])
    assert project.repro().ran == []
    adapter = json.loads((project.root / "models/adapter/adapter_config.json").read_text("utf-8"))
    assert adapter["r"] == 6


def compare(project: Project) -> str:
    """What `make compare` prints."""
    shown = subprocess.run(
        ["make", "-n", "compare"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    command = next(
        line for line in shown.stdout.replace("\\\n", " ").splitlines() if " dvc exp show " in line
    )
    arguments = shlex.split(command[command.index("dvc exp show") :])[1:]
    return project.dvc(*arguments).out


def the_sweep_in_mlflow(project: Project) -> None:
    """One run of the sweep, finished, with its page; the runs of both points are nested under it."""
    with closing(sqlite3.connect(project.root / "mlflow.db")) as store:
        [(uuid, status, artifacts)] = store.execute(
            "SELECT run_uuid, status, artifact_uri FROM runs WHERE name = 'sweep ranks'"
        )
        nested = store.execute(
            "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?", [uuid]
        )
        points = {run for (run,) in nested}
        named = store.execute("SELECT run_uuid FROM tags WHERE key = 'codetune.dvc_experiment'")
        assert points == {run for (run,) in named}
    assert len(points) == 2
    assert status == "FINISHED"
    assert sorted(p.name for p in Path(artifacts).iterdir()) == ["index.html", "sweep.csv"]


def runs_by_rank(project: Project) -> dict[str, int]:
    """How many MLflow runs the project's store holds for each rank."""
    with closing(sqlite3.connect(project.root / "mlflow.db")) as store:
        found = store.execute(
            "SELECT value, COUNT(*) FROM params WHERE key = 'train.lora.rank' GROUP BY value"
        )
        return dict(found.fetchall())


def another_run(project: Project) -> Project:
    """A run from nothing, in another folder, as far as the samples."""
    assert not (project.root / ".dvc/cache").exists()
    project.repro("evaluate@base", "evaluate@tuned")
    return project


def killed_in_the_middle_of_training(second: Project, project: Project) -> None:
    forget(project, ["train", "merge", "evaluate@tuned"])
    kill_when_checkpointed(project)
    left = sorted(p.name for p in (project.root / "models").iterdir())
    assert left == [".gitignore", "base"], "nothing of the adapter is there before it is whole"
    assert list((project.root / ".cache/train").glob("*/checkpoint-*")), "there is something to go on from"

    again = project.repro("evaluate@tuned")
    assert again.ran == ["train", "merge", "evaluate@tuned"]
    assert "train: resuming after step" in again.text, "it did not begin again"
    assert project.files(*ARTIFACTS) == second.files(*ARTIFACTS)
    assert verdicts(project) == verdicts(second)


def verdicts(project: Project) -> list[dict[str, object]]:
    """All samples."""
    files = [project.root / f"reports/evaluate/{target}/samples.jsonl" for target in ("base", "tuned")]
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


SCENARIOS = (
    a_sweep_over_two_ranks,
    a_rank_its_revert_and_its_experiment,
    a_clean_threshold,
    an_evaluation_temperature,
    a_line_of_code,
    a_line_of_the_judge,
    a_comment_and_an_unselected_option,
)


@pytest.fixture(scope="module")
def running(
    fresh: Project, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Any]"]]:
    """All scenarios, two at a time, each in a copy of its own: their stages use one core each."""
    folder = tmp_path_factory.mktemp("reruns")
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(another_run, replace(fresh, warm=False).copy(folder / "another-name"))
        finished = request.getfixturevalue("finished")  # meanwhile
        found = {s.__name__: pool.submit(s, finished.copy(folder / s.__name__)) for s in SCENARIOS}
        found["second"] = second
        found["killed"] = pool.submit(
            lambda: killed_in_the_middle_of_training(second.result(), second.result().copy(folder / "killed"))
        )
        yield found
        for future in found.values():
            future.cancel()


def test_the_first_run_runs_everything_and_the_second_nothing(project: Project) -> None:
    lock = yaml.safe_load((project.root / "dvc.lock").read_text("utf-8"))
    assert sorted(lock["stages"]) == sorted(STAGES)
    assert project.repro().ran == []
    assert project.git("status", "--porcelain") == ""


@pytest.mark.parametrize("scenario", [s.__name__ for s in SCENARIOS])
def test_what_reruns_after(scenario: str, running: dict[str, "Future[Any]"]) -> None:
    running[scenario].result()


def test_two_runs_are_the_same_bytes(finished: Project, running: dict[str, "Future[Any]"]) -> None:
    second = running["second"].result()
    assert second.files(*ARTIFACTS) == finished.files(*ARTIFACTS)
    assert set(ARTIFACTS) == {"/".join(Path(name).parts[:2]) for name in second.files(*ARTIFACTS)}
    assert verdicts(second) == verdicts(finished)
    reports = second.files("reports")
    assert reports == {name: finished.files("reports")[name] for name in reports}, "metrics, curve, samples"
    lock, whole = (
        yaml.safe_load((p.root / "dvc.lock").read_text("utf-8"))["stages"] for p in (second, finished)
    )
    assert lock == {stage: whole[stage] for stage in lock}, "a run again leaves git status clean"
    assert len(verdicts(second)) == 8


def test_the_same_bytes_after_a_kill_in_the_middle_of_training(running: dict[str, "Future[Any]"]) -> None:
    running["killed"].result()


def forget(project: Project, stages: list[str]) -> None:
    """Make stages look never run: no outputs, no locks, no run cache, no scratch files."""
    lock = project.root / "dvc.lock"
    node = yaml.safe_load(lock.read_text("utf-8"))
    for stage in stages:
        del node["stages"][stage]
    lock.write_text(yaml.safe_dump(node, sort_keys=False), "utf-8")
    for folder in ("models/adapter", "models/merged", "reports/evaluate/tuned", ".dvc/cache/runs", ".cache"):
        shutil.rmtree(project.root / folder)


def kill_when_checkpointed(project: Project) -> None:
    """Run `dvc repro`, and kill the training with SIGKILL as soon as it has written a checkpoint."""
    running = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "evaluate@tuned"],
        cwd=project.root,
        env=environment(project.root, warm=False),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE
    while not list((project.root / ".cache/train").glob("*/checkpoint-*")):
        assert running.poll() is None, "the training ended before it was killed"
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.002)
    training = [pid for pid, command in descendants(running.pid) if command[1:3] == ["-m", "stages.train"]]
    assert len(training) == 1, "the training ended before it was killed"
    os.kill(training[0], signal.SIGKILL)
    assert running.wait(PATIENCE) != 0


def descendants(parent: int) -> Iterator[tuple[int, list[str]]]:
    """Process id and command line of every process below `parent`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if int(fields[1]) == parent:
            yield int(entry.name), command
            yield from descendants(int(entry.name))
