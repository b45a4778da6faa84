"""Whatever happened to the store or to the files, `dvc repro` leaves a table in MLflow that equals the files."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.core.files import remove
from stages.track.runs import run_params
from stages.track.settings import TrackSettings
from stages.track.store import curve_history, open_store
from tests.helpers.tiny_project import Project

pytestmark = pytest.mark.slow

CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens, and a connection is refused at once


def uri(project: Project, file: str) -> str:
    return f"sqlite:///{project.root}/{file}"


def run_of(project: Project, experiment: str, file: str) -> tuple[Any, Any]:
    """The store, and the only run of the experiment that is not deleted."""
    store = open_store(TrackSettings(uri=uri(project, file), experiment=experiment))
    (run,) = store.client.search_runs([store.experiment_id])
    return store, run


def check_table(project: Project, experiment: str, file: str) -> None:
    """Parameters, curve, figures, tags, artifacts and the registered version are what the files say."""
    store, run = run_of(project, experiment, file)
    reports = project.root / "reports"
    read = {
        name: json.loads((reports / f"{name}.json").read_text("utf-8"))
        for name in ("evaluate/tuned", "evaluate/base", "merge", "report", "train")
    }
    assert run.info.status == "FINISHED"
    assert run.data.params == run_params((reports / "config.yaml").read_text("utf-8"))
    history = curve_history(store, run)
    assert "train/memory_mib" not in history  # was measured where the files were made
    assert {k: v for k, v in history.items() if k in curve(reports)} == curve(reports)
    expected = {
        "tuned/pass_at_1": read["evaluate/tuned"]["pass_at_1"],
        "base/pass_at_1": read["evaluate/base"]["pass_at_1"],
        "merge/mean_kl": read["merge"]["mean_kl"],
        "comparison/p": read["report"]["p"],
    }
    assert {key: run.data.metrics[key] for key in expected} == expected
    lock = yaml.safe_load((project.root / "dvc.lock").read_text("utf-8"))["stages"]
    digests = {
        f"dvc.{out['path']}": out["md5"].removesuffix(".dir")
        for stage in lock.values()
        for out in stage.get("outs", [])
        if out["path"].startswith(("data/", "models/"))
    }
    assert {k: v for k, v in run.data.tags.items() if k.startswith("dvc.")} == digests
    assert run.data.tags["codetune.training_key"] == read["train"]["training_key"]
    assert run.data.tags["mlflow.source.git.commit"] == project.git("rev-parse", "HEAD")
    samples = store.client.download_artifacts(run.info.run_id, "evaluate/tuned/samples.jsonl")
    assert Path(samples).read_bytes() == (reports / "evaluate/tuned/samples.jsonl").read_bytes()
    candidate = store.client.get_model_version_by_alias("codetune", "candidate")
    assert candidate.run_id == run.info.run_id
    assert candidate.tags["dvc.models/merged"] == digests["dvc.models/merged"]


def curve(reports: Path) -> dict[str, dict[int, list[float]]]:
    """reports/train.csv as MLflow should hold it: metric, step, values."""
    table: dict[str, dict[int, list[float]]] = {}
    with (reports / "train.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for key, cell in row.items():
                if key != "step" and cell:
                    table.setdefault(f"train/{key}", {})[int(row["step"])] = [float(cell)]
    return table


def test_the_table_in_mlflow_ends_up_equal_to_the_files(project: Project) -> None:
    """The store does not answer; then it knows nothing, and all files come from DVC's cache."""
    done = project.run("dvc", "repro", "-f", "-s", "track", env={"MLFLOW_TRACKING_URI": CLOSED}, check=True)
    assert (
        f"MLflow: {CLOSED} does not answer. Not sent: parameters, curve, final metrics, data, tags, artifacts, model. "
        "Run `dvc repro track` to send it later."
    ) in done.out
    for path in ("models", "data/raw", "data/benchmarks", "data/clean", "data/packed", "reports", "dvc.lock"):
        remove(project.root / path)
    shutil.rmtree(project.root / "mlartifacts")
    done = project.run("dvc", "repro", env={"MLFLOW_TRACKING_URI": uri(project, "second.db")}, check=True)
    assert done.ran == ["config", "track"]  # no stage that makes the files
    check_table(project, "codetune", "second.db")
    assert len(list((project.root / "mlartifacts").rglob("*.safetensors"))) == 1
