"""The saved view that MLflow's UI offers: written once, of metrics and parameters that runs have."""

import base64
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.track.run_contents import read_run_contents
from stages.track.runs import run_params
from stages.track.store import Store
from stages.track.view import VIEW_COLUMNS, VIEW_NAME, VIEW_TAG, add_view, link_to_view, saved_view
from tests.helpers.sweep_runs import make_point


class Experiment:
    """The part of a client that a view needs, over one experiment's tags."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def get_experiment(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(tags=dict(self.tags))

    def set_experiment_tag(self, name: str, key: str, value: str) -> None:
        self.tags[key] = value


def test_a_view_is_written_once_and_what_users_make_of_it_stays() -> None:
    experiment = Experiment()
    store = Store(experiment, "1", "sqlite:///mlflow.db")
    add_view(store)
    assert experiment.tags == {VIEW_TAG: saved_view()}
    experiment.tags[VIEW_TAG] = "changed"
    add_view(store)
    assert experiment.tags == {VIEW_TAG: "changed"}


def test_the_view_is_text_that_the_ui_inflates() -> None:
    view = json.loads(saved_view())
    assert view["name"] == VIEW_NAME
    kind, deflated = view["state"].split(";")
    assert kind == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(deflated)))
    assert state["selectedColumns"][:3] == [
        "metrics.`tuned/pass_at_1`",
        "metrics.`tuned/pass_at_1_low`",
        "metrics.`tuned/pass_at_1_high`",
    ]
    assert len(saved_view()) < 5000  # MLflow's limit of a tag


def test_columns_are_of_metrics_and_parameters_that_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_point(tmp_path / "point", 8))
    Path("reports/index.html").write_text("page")
    contents = read_run_contents()
    metrics = {*contents.final_metrics, *(point.name for point in contents.curve)}
    there = {*(f"metrics.`{m}`" for m in metrics), *(f"params.`{p}`" for p in run_params())}
    assert set(VIEW_COLUMNS) <= there


def test_without_a_store_the_link_is_the_start_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert link_to_view("5001") == "http://127.0.0.1:5001/"
    assert not list(tmp_path.iterdir()), "looking makes no store"
