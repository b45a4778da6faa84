"""Tracking and registry on the kinds of server that people run: `mlflow server` with a password, and PostgreSQL."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.common.core.stage import Settings
from stages.common.tracking import LiveRun
from stages.promote.__main__ import main as promote
from stages.track.__main__ import main
from stages.track.server_errors import http_status, with_driver
from stages.track.settings import TrackSettings
from stages.track.store import curve_history, open_store
from tests.helpers.mlflow_servers import PASSWORD, USER, MlflowServer, Postgres
from tests.helpers.report_files import STEPS, curve_rows, make_reports
from tests.helpers.tiny_project import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished pipeline's files with a tiny model as the merged one, as working folder; no store."""
    root = make_reports(tmp_path / "place")
    shutil.rmtree(root / "models/merged")
    shutil.copytree(tiny_model, root / "models/merged")
    shutil.copy(REPOSITORY / "params.yaml", root)
    shutil.copytree(REPOSITORY / "conf", root / "conf")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return root


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    from mlflow.tracking import MlflowClient

    place = tmp_path_factory.mktemp("server")
    MlflowClient(tracking_uri=f"sqlite:///{place}/served.db").search_experiments()  # quicker than it does so
    server = MlflowServer(place, place / "served.db")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(folder: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server is the store, by the environment alone."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return mlflow_server


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(folder: Path, database: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """PostgreSQL is the store, by the environment alone."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.uri)
    return database


def track(**changes: Any) -> None:
    main(Settings("track", {"track": TrackSettings(**changes)}))


def only_run(experiment: str) -> Any:
    store = open_store(TrackSettings(experiment=experiment))
    (run,) = store.client.search_runs([store.experiment_id])
    return run


def check_table(experiment: str) -> None:
    """The only run of an experiment holds what the files say."""
    run, store = only_run(experiment), open_store(TrackSettings(experiment=experiment))
    losses = {row["step"]: [row["loss"]] for row in curve_rows()}
    assert curve_history(store, run)["train/loss"] == losses
    assert len(losses) == STEPS
    assert (run.info.status, run.data.metrics["tuned/pass_at_1"]) == ("FINISHED", 0.5)
    assert run.data.params["train.lora.rank"] == "16"
    assert len(run.inputs.dataset_inputs) == 2
    samples = store.client.download_artifacts(run.info.run_id, "evaluate/tuned/samples.jsonl")
    assert Path(samples).read_bytes() == Path("reports/evaluate/tuned/samples.jsonl").read_bytes()


def aliases(name: str) -> dict[str, str]:
    return dict(open_store(TrackSettings()).client.get_registered_model(name).aliases)


def sent() -> bool:
    return bool(json.loads(Path("reports/mlflow.json").read_text("utf-8"))["sent"])


@pytest.mark.slow
def test_a_server_with_a_password_holds_run_and_model_and_gives_it_back(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    track(experiment="alone", registered_model="alone")
    check_table("alone")
    assert only_run("alone").info.artifact_uri.startswith("mlflow-artifacts:")
    assert promote(["track.registered_model=alone"]) == 0
    assert {alias: str(v) for alias, v in aliases("alone").items()} == {"candidate": "1", "champion": "1"}
    run = only_run("alone").to_dictionary()
    track(experiment="alone", registered_model="alone")
    assert only_run("alone").to_dictionary() == run
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    model = mlflow.pyfunc.load_model("models:/alone@champion")
    (completion,) = model.predict(["def add(a, b):\n"], params={"max_new_tokens": 4})
    assert isinstance(completion, str)
    assert not (elsewhere / "mlflow.db").exists()


@pytest.mark.slow
def test_a_wrong_password_fails_track_but_never_the_training(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a wrong one")
    live = LiveRun.start(TrackSettings(), "0123456789abcdef")
    for row in curve_rows():
        live.log({"loss": row["loss"]}, row["step"])
    live.close()
    output = capfd.readouterr().err
    reason = "the user name or password is missing or wrong. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    assert output.count("\n") == 1
    assert f"the live curve is not sent (MLflow store {server.uri}: {reason})" in output
    with pytest.raises(UserError) as error:
        track()
    assert str(error.value) == f"MLflow store {server.uri}: {reason}"
    assert not Path("reports/mlflow.json").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    track(experiment="again", registered_model="again")
    check_table("again")


def test_a_user_without_write_permission_gets_an_error(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    track(experiment="theirs", registered_model="")
    AuthServiceClient(server.uri).create_user("reader", "another long secret")
    Path("reports/config.yaml").write_text(Path("reports/config.yaml").read_text() + "sweep: {}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another long secret")
    with pytest.raises(UserError, match="this user lacks the permission"):
        track(experiment="theirs", registered_model="")


@pytest.mark.slow
def test_postgresql_by_the_environment_alone(postgres: Postgres, folder: Path) -> None:
    track()
    check_table("codetune")
    run = only_run("codetune").to_dictionary()
    assert Path(run["info"]["artifact_uri"]).is_relative_to(folder / "mlartifacts")
    track()
    assert only_run("codetune").to_dictionary() == run
    assert promote([]) == 0
    assert set(aliases("codetune")) == {"candidate", "champion"}
    with postgres.connected() as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from model_versions")
        assert cursor.fetchone() == (1,)


def test_postgresql_that_dies_in_the_middle_gets_the_rest_later(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    datasets = MlflowClient.log_inputs

    def dies(*arguments: Any, **named: Any) -> None:
        postgres.stop()
        datasets(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_inputs", dies)
    track(experiment="dies", registered_model="dies")
    output = capsys.readouterr().out
    address = f"postgresql+psycopg2://127.0.0.1:{postgres.port}/postgres"
    left = "data, tags, artifacts, model"
    assert output == (
        f"MLflow: {address} does not answer. Not sent: {left}. Run `dvc repro track` to send it later.\n"
    )
    assert not sent()
    postgres.start()
    monkeypatch.setattr(MlflowClient, "log_inputs", datasets)
    track(experiment="dies", registered_model="dies")
    check_table("dies")
    assert sent()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": "a wrong one"}, "password authentication failed"),
        ({"password": PASSWORD, "database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_what_postgresql_rejects_is_an_error_without_the_password(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri_with(**changes))
    with pytest.raises(UserError, match=message) as error:
        track()
    assert changes["password"].replace(" ", "%20") not in str(error.value)
    assert "Check track.uri and MLFLOW_TRACKING_URI" in str(error.value)


def test_http_status_of_errors_of_mlflow_and_requests() -> None:
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    refused = requests.Response()
    refused.status_code = 401
    assert http_status(requests.HTTPError(response=refused)) == 401  # of an upload
    assert http_status(requests.ConnectionError()) == 503
    assert http_status(MlflowException("API request to endpoint x failed with error code 403 != 200")) == 403
    assert http_status(MlflowException("x", error_code=RESOURCE_DOES_NOT_EXIST)) == 404


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"psycopg2"}, "postgresql+psycopg2://u:p@h/d"),
        ({"psycopg", "psycopg2"}, "postgresql://u:p@h/d"),
        (set(), "postgresql://u:p@h/d"),
    ],
)
def test_an_address_without_a_driver_gets_the_installed_one(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], expected: str
) -> None:
    monkeypatch.setattr(
        "stages.track.server_errors.find_spec", lambda name: name if name in installed else None
    )
    assert with_driver("postgresql://u:p@h/d") == expected
    assert with_driver("postgresql+pg8000://h/d") == "postgresql+pg8000://h/d"
    assert with_driver("sqlite:///a.db") == "sqlite:///a.db"


def test_a_missing_driver_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+pg8000://u:secret@127.0.0.1/d")
    with pytest.raises(
        UserError, match=r"driver is not installed .*run `pip install psycopg2-binary`"
    ) as error:
        track()
    assert "secret" not in str(error.value)
