"""`python -m stages.promote`: `champion` moves unless the candidate is worse by more than noise, with a reason."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.core.errors import UserError
from stages.promote.__main__ import main
from stages.promote.decision import RULE, decide
from stages.promote.scored import Scored
from stages.track.settings import TrackSettings
from stages.track.store import Store, open_store
from tests.helpers.report_files import problem_samples
from tests.helpers.tiny_project import REPOSITORY, write_jsonl

NAME = "codetune"
PARAMS = {
    "evaluate.benchmarks": "[]",
    "evaluate.scoring.humaneval.packages": "['numpy']",
    "evaluate.samples": "1",
    "evaluate.temperature": "0.0",
    "evaluate.workers": "2",
    "evaluate.dtype": "auto",
    "prompt.style": "completion",
}


def scored(version: str, passed: set[int], weak: bool = False, **params: str) -> Scored:
    named = {f"evaluate.{key}": value for key, value in params.items()}
    return Scored(version, {**PARAMS, **named}, "C" if weak else "B", weak, problem_samples(passed, 40))


EVERY = set(range(40))


def test_the_first_candidate_becomes_champion() -> None:
    decision = decide(None, scored("1", {1, 2}))
    assert decision.promoted
    assert decision.sentence == (
        "Version 1 becomes champion: there was none. 2 of its 40 samples for humaneval passed."
    )
    assert decision.tags["codetune.promotion.against"] == "none"


@pytest.mark.parametrize(
    ("champion", "candidate", "promoted"),
    [
        (set(range(10)), set(range(5)), True),  # 5 lost, none won: p = 0.0625
        (set(range(10)), set(range(4)), False),  # 6 lost, none won: p = 0.031
        (set(range(4)), set(range(10)), True),  # better by more than noise
        (set(range(10)), set(range(10)), True),
        (set(range(10)), {*range(2), *range(20, 27)}, True),  # 8 lost, 7 won
    ],
)
def test_the_rule(champion: set[int], candidate: set[int], promoted: bool) -> None:
    decision = decide(scored("1", champion), scored("2", candidate))
    assert decision.promoted is promoted
    assert decision.tags["codetune.promotion"] == ("promoted" if promoted else "refused")
    assert decision.tags["codetune.promotion.won"] == str(len(candidate - champion))
    assert decision.tags["codetune.promotion.lost"] == str(len(champion - candidate))
    assert decision.tags["codetune.promotion.rule"] == RULE


def test_a_refusal_says_why() -> None:
    decision = decide(scored("3", set(range(8))), scored("5", set()))
    assert decision.sentence.startswith(
        "Version 5 does not become champion, version 3 stays: it is worse by more than noise. Of 40 problems of humaneval "
        "it won 0 and lost 8 (-20.0 percentage points, 95% interval "
    )
    assert "exact McNemar test, p = 0.008)" in decision.sentence
    assert decision.tags["codetune.promotion.p"] == "0.0078125"
    assert decision.tags["codetune.promotion.difference"] == "-0.2"


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (
            scored("2", EVERY, **{"scoring.mbpp.fence": "last"}),
            "evaluate.scoring is humaneval.packages=.* and humaneval.packages=.*, mbpp.fence=last",
        ),
        (scored("2", EVERY, temperature="0.8"), "evaluate.temperature is 0.0 and 0.8"),
        (scored("2", EVERY, max_new_tokens="9"), "evaluate.max_new_tokens is unset and 9"),
        (scored("2", EVERY, weak=True), r"weak sandbox \(levels B and C\)"),
        (
            Scored("2", PARAMS, "B", False, problem_samples(EVERY, 39)),
            "their problems of humaneval differ",
        ),
    ],
)
def test_models_scored_with_different_settings_are_not_compared(candidate: Scored, reason: str) -> None:
    with pytest.raises(UserError, match=f"not comparable: .*{reason}"):
        decide(scored("1", set()), candidate)


def test_other_differences_are_mentioned() -> None:
    sentence = decide(scored("1", {1}), scored("2", {1}, dtype="bfloat16", workers="8")).sentence
    assert "They were scored with different evaluate.dtype (auto and bfloat16)." in sentence
    assert "workers" not in sentence
    both = decide(scored("1", {1}, weak=True), scored("2", {1}, weak=True)).sentence
    assert "Both were judged in a weak sandbox (level C)." in both


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A fresh store, and a folder with the configuration of this repository to call promote in."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(TrackSettings())


def register(store: Store, passed: set[int]) -> str:
    """A version whose run holds samples, as `track` leaves them; the new candidate."""
    from mlflow.entities import Param

    run = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_batch(run, params=[Param(k, v) for k, v in PARAMS.items()])
    write_jsonl(Path("samples.jsonl"), problem_samples(passed, 40))
    store.client.log_artifact(run, "samples.jsonl", "evaluate/tuned")
    if not store.client.search_registered_models():
        store.client.create_registered_model(NAME)
    made = store.client.create_model_version(NAME, "/nowhere", run, description="A model.")
    store.client.set_registered_model_alias(NAME, "candidate", made.version)
    return str(made.version)


def champion(store: Store) -> str | None:
    found = store.client.get_registered_model(NAME).aliases.get("champion")
    return None if found is None else str(found)


def test_the_alias_moves_and_the_reason_is_in_the_version(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = register(store, set(range(10)))
    made = store.client.get_model_version(NAME, first)
    assert main([]) == 0
    assert champion(store) == first
    second = register(store, set(range(5, 15)))
    capsys.readouterr()
    assert main([]) == 0
    assert champion(store) == second
    version = store.client.get_model_version(NAME, second)
    printed = capsys.readouterr().out.removeprefix("'codetune': ").strip()
    assert printed.startswith(f"Version {second} becomes champion in place of version {first}: ")
    assert version.description == f"A model.\n\nPromotion: {printed}"
    promotion = {k.rpartition(".")[2]: v for k, v in version.tags.items() if "promotion" in k}
    assert promotion == {
        "promotion": "promoted",
        "against": first,
        "p": "1",
        "won": "5",
        "lost": "5",
        "difference": "0",
        "benchmark": "humaneval",
        "rule": RULE,
    }
    assert version.last_updated_timestamp > made.last_updated_timestamp  # when: MLflow's own time


@pytest.mark.slow
def test_a_worse_candidate_is_refused_each_time(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = register(store, set(range(10)))
    main([])
    second = register(store, {0, 1})
    for _ in range(2):
        capsys.readouterr()
        assert main([]) == 1
        assert "does not become champion" in capsys.readouterr().out
    assert champion(store) == first
    version = store.client.get_model_version(NAME, second)
    assert version.tags["codetune.promotion"] == "refused"
    assert version.description.count("Promotion: ") == 1


def test_a_champion_that_is_the_candidate_stays(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    register(store, {1})
    main([])
    before = dict(store.client.get_model_version(NAME, "1"))
    capsys.readouterr()
    assert main([]) == 0
    assert capsys.readouterr().out == "'codetune': version 1, the candidate, is already the champion.\n"
    assert dict(store.client.get_model_version(NAME, "1")) == before


@pytest.mark.slow
def test_samples_of_a_deleted_run_are_still_read_and_missing_ones_are_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = register(store, {1, 2})
    main([])
    run = store.client.get_model_version(NAME, first).run_id
    store.client.delete_run(run)
    second = register(store, {1, 2})
    assert main([]) == 0
    assert champion(store) == second
    shutil.rmtree(store.client.get_run(store.client.get_model_version(NAME, second).run_id).info.artifact_uri)
    register(store, {1, 2})
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert f"version {second} of 'codetune' cannot be compared: evaluate/tuned/samples.jsonl" in error
    assert champion(store) == second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "uri", "message"),
    [
        ([], None, "no version of 'codetune' has the alias 'candidate'"),
        (["track.registered_model=other"], None, "no version of 'other' has the alias 'candidate'"),
        ([], "http://127.0.0.1:9", "does not answer. The champion is unchanged"),
        (["track.regstered_model=x"], None, "Did you mean 'track.registered_model'?"),
    ],
)
def test_errors_are_one_message(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    uri: str | None,
    message: str,
) -> None:
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error in stage promote: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_exit_status_of_the_command(store: Store) -> None:
    register(store, set(range(10)))
    main([])
    register(store, set())
    done = subprocess.run(
        [sys.executable, "-m", "stages.promote"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "worse by more than noise" in done.stdout
