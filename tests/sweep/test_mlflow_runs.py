"""The sweep's own run in MLflow, and the runs of its points below it."""

from pathlib import Path

import pytest

from stages.common.git import experiment_ref
from stages.sweep.mlflow_runs import close_run, open_run
from stages.sweep.point import PointOutcome
from stages.sweep.results import gather_sweep
from stages.sweep.spec import SweepSpec
from stages.track.runs import RunIdentity, create_run, find_runs
from stages.track.settings import TrackSettings
from stages.track.store import open_store
from tests.helpers.sweep_points import git, make_commit, make_repository, sweep_spec

CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens

TRAIN = '{"training_key": "0123456789abcdef"}'
CONFIG = "train:\n  lora:\n    rank: 8\n"
IDENTITY = RunIdentity.of("0123456789abcdef", CONFIG)


@pytest.fixture
def spec(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    """Of a repository with one experiment, rank-8; the current folder is the repository."""
    root = tmp_path / "project"
    head = make_repository(root)
    made = make_commit(root, {"reports/train.json": TRAIN, "reports/config.yaml": CONFIG})
    git(root, "update-ref", experiment_ref(head, "rank-8"), made)
    (root / "reports").mkdir()
    (root / "reports/config.yaml").write_text(CONFIG, "utf-8")
    (root / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return sweep_spec(root, head)


POINTS = [
    PointOutcome(0, "rank-8", "from the cache", 0.25, 1.0),
    PointOutcome(1, "rank-9", "failed", None, 1.0, "no"),
]


def report(folder: Path) -> Path:
    (folder / "page").mkdir()
    (folder / "page/index.html").write_text("<p>page</p>", "utf-8")
    return folder / "page"


def test_a_run_that_another_sweep_made_is_nested(spec: SweepSpec, tmp_path: Path) -> None:
    store = open_store(TrackSettings())
    point = create_run(store, IDENTITY)
    run = open_run(TrackSettings(), spec)
    assert open_run(TrackSettings(), spec) == run, "the same command made another run"
    close_run(TrackSettings(), gather_sweep(spec, POINTS), report(tmp_path))
    tags = store.client.get_run(point.info.run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["codetune.sweep"]) == (run, "ranks")
    assert tags["codetune.dvc_experiment"] == "rank-8"
    closed = store.client.get_run(run)
    assert closed.info.status == "FAILED", "a point failed"
    assert closed.data.metrics == {"best/pass_at_1": 0.25, "points": 1.0}
    assert closed.data.tags["mlflow.note.content"].startswith("1 point finished, 1 failed. ")
    assert [item.path for item in store.client.list_artifacts(run)] == ["index.html"]
    close_run(TrackSettings(), gather_sweep(spec, POINTS[:1]), tmp_path / "page")
    assert store.client.get_run(run).info.status == "FINISHED"


def test_a_point_without_a_run_is_named_with_the_commands_that_send_it(
    spec: SweepSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_run(TrackSettings(), spec)
    close_run(TrackSettings(), gather_sweep(spec, POINTS), report(tmp_path))
    printed = capsys.readouterr().out
    assert (
        printed
        == "MLflow: no run of rank-8. To send it: `dvc exp apply rank-8`, then `dvc repro -f -s track`.\n"
    )
    assert find_runs(open_store(TrackSettings()), IDENTITY) == []


def test_the_run_of_another_clone_is_not_moved(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(TrackSettings())
    theirs = create_run(store, IDENTITY)
    open_run(TrackSettings(), spec)
    monkeypatch.setattr("stages.track.runs.owner", lambda: "bob@elsewhere:codetune-1")
    close_run(TrackSettings(), gather_sweep(spec, POINTS), report(tmp_path))
    assert store.client.get_run(theirs.info.run_id).to_dictionary() == theirs.to_dictionary()


def test_a_store_that_does_not_answer_is_one_line(
    spec: SweepSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert open_run(TrackSettings(timeout=1), spec) == ""
    close_run(TrackSettings(timeout=1), gather_sweep(spec, POINTS), report(tmp_path))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"MLflow: {CLOSED} does not answer. The sweep's run is incomplete. ")
    assert second.endswith("Rerun the same command to complete it.")


def test_a_store_that_comes_back_gets_the_sweep_s_run_at_the_end(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert open_run(TrackSettings(timeout=1), spec) == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    store = open_store(TrackSettings())
    point = create_run(store, IDENTITY)
    close_run(TrackSettings(), gather_sweep(spec, POINTS), report(tmp_path))
    parent = store.client.get_run(point.info.run_id).data.tags["mlflow.parentRunId"]
    assert store.client.get_run(parent).info.run_name == "sweep ranks"
