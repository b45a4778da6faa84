"""What was run once is not run again: a sweep, the edit reverted, `dvc exp run`, `dvc exp apply`."""

import csv
import json
import shlex
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from stages.sweep.point import parse_ran_stages
from tests.helpers.tiny_project import REPOSITORY, Project
from tests.helpers.toy_pipeline import experiment_names, run_sweep, summary_rows, user_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# A second or two; they run again where all else comes back from DVC's run cache
NEVER_CACHED = ["config", "track"]
OUTPUTS = ("data", "models", "reports/evaluate")


def test_a_sweep_and_its_experiments(project: Project) -> None:
    """As after `make demo` in a fresh clone: results of a run that nobody has committed, then a sweep.

    Of the two ranks the first is what params.yaml says, and has been run.
    """
    project.git("reset", "--quiet", "HEAD~1")
    before, narrow = user_files(project), project.files(*OUTPUTS)
    status = project.git("status", "--porcelain")
    assert "dvc.lock" in status
    sweep_two_ranks(project)
    assert user_files(project) == before
    assert project.git("status", "--porcelain") == status

    project.dvc("exp", "apply", "rank-6")
    assert project.repro().ran == [], "an applied experiment is whole"
    wide = project.files(*OUTPUTS)
    adapter = json.loads((project.root / "models/adapter/adapter_config.json").read_text("utf-8"))
    assert adapter["r"] == 6

    project.git("checkout", "--quiet", "params.yaml")
    assert project.repro().ran == NEVER_CACHED, "all else comes back from DVC's run cache"
    assert project.files(*OUTPUTS) == narrow

    project.commit("results")
    made = project.dvc("exp", "run", "--name", "again", "--set-param", "++train.lora.rank=6")
    assert made.ran == NEVER_CACHED
    assert project.files(*OUTPUTS) == wide


def sweep_two_ranks(project: Project) -> None:
    assert runs_by_rank(project) == {"4": 1}
    done = run_sweep(project, "-m", "train.lora.rank=4,6", "sweep.name=ranks")
    assert done.status == 0, done.text
    assert summary_rows(done)["rank-4"][1] == "from the cache"
    assert summary_rows(done)["rank-6"][1] == "ran 6 stages"
    log = next((project.root / ".cache/sweep").rglob("rank-6*.log")).read_text("utf-8")
    assert sorted(parse_ran_stages(log)) == ["config", "evaluate@tuned", "merge", "report", "track", "train"]
    assert experiment_names(project) == ["rank-4", "rank-6"]
    assert runs_by_rank(project) == {"4": 1, "6": 1}
    check_sweep_in_mlflow(project)
    with (project.root / "reports/sweeps/ranks/sweep.csv").open(encoding="utf-8", newline="") as file:
        table = {row["train.lora.rank"]: row for row in csv.DictReader(file)}
    assert set(table) == {"4", "6"}
    for row in table.values():
        assert float(row["validation_loss"]) > 0
        assert row["p_holm"]
        assert row["seconds"]
    compared = compare(project)
    assert all(name in compared for name in experiment_names(project))
    assert "params.yaml:train.lora.rank" in compared
    assert "models/adapter" not in compared


def compare(project: Project) -> str:
    """Return what `make compare` prints."""
    shown = subprocess.run(
        ["make", "-n", "compare"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    command = next(
        line for line in shown.stdout.replace("\\\n", " ").splitlines() if " dvc exp show " in line
    )
    arguments = shlex.split(command[command.index("dvc exp show") :])[1:]
    return project.dvc(*arguments).out


def check_sweep_in_mlflow(project: Project) -> None:
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
