"""Sweeps: each point a DVC experiment and an MLflow run, the user's tree untouched.

Here over a toy pipeline (config, and a stage that takes no time); tests/pipeline/test_reruns.py sweeps over the real stages.
"""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stages.common.errors import UserError
from stages.common.git import clean_commit
from stages.sweep.point import Result, objective, stages_run
from stages.sweep.spec import (
    Plan,
    as_hydra_says,
    dvc_params,
    point_name,
    point_overrides,
    sweeper,
    swept,
)
from stages.sweep.summary_table import table, words
from tests.helpers.tiny_project import Project
from tests.helpers.toy_pipeline import experiments, made, rows, short, sweep, tree

pytestmark = pytest.mark.slow

PLAN = Plan(
    root="/repository",
    commit="c" * 40,
    cache="/cache",
    tracking_uri="sqlite:////repository/mlflow.db",
    identity=(),
    fixed=("++train.epochs=1",),
    name="sweep",
    objective="reports/evaluate/tuned.json:pass_at_1",
)


def test_points_become_experiments_and_the_tree_is_untouched(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    before, head = tree(project), project.git("rev-parse", "HEAD")
    done = sweep(project, "-m", "train.lora.rank=4,8")
    assert done.status == 0, done.text
    assert {name: row[:2] for name, row in rows(done).items()} == {
        "rank-4": ["0.04", "ran 2 stages"],
        "rank-8": ["0.08", "ran 2 stages"],
    }
    assert short(experiments(project)) == ["rank-4", "rank-8"]
    assert tree(project) == before
    assert project.git("status", "--porcelain") == ""
    assert (project.git("rev-parse", "HEAD"), project.git("branch", "--list")) == (head, "* main")
    assert list((project.root / ".cache/sweep").rglob("params.yaml")) == [], "a clone was left behind"
    assert f"sqlite:///{project.root}/mlflow.db" in made(project, "rank-4"), "not the store of the clone"

    again = sweep(project, "train.lora.rank=8,4")  # -m is not needed: a sweep is always one
    assert {row[1] for row in rows(again).values()} == {"there already"}
    assert rows(again)["rank-8"][0] == "0.08"
    assert rows(again)["rank-8"][2:5] == ["+3.0", "0.025", "0.050"]
    assert rows(done)["rank-4"][2:5] == ["+3.0", "0.050", "0.050"]
    told = "more than noise, Holm's correction over 2 points: no point."
    assert told in done.out  # 0.025 alone would be more
    assert told in again.out

    (project.root / "notes.txt").write_text("a new commit\n", "utf-8")
    project.commit()
    moved = sweep(project, "-m", "train.lora.rank=8")
    assert rows(moved)["rank-8"][:5] == ["0.08", "from the cache", "+3.0", "0.025", "0.025"]
    assert "Holm's correction over 1 point: rank-8-" in moved.out

    project.dvc("exp", "apply", experiments(project)[0])
    applied = project.repro()
    assert applied.ran == []
    assert "rank: 8" in (project.root / "params.yaml").read_text("utf-8")


def test_a_failed_point_does_not_end_the_others_and_groups_can_be_swept(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    done = sweep(project, "-m", "base=other", "train.lora.rank=13,6", "sweep.name=mine")
    assert done.status == 1
    assert rows(done)["rank-13"] == ["-", "failed", "-", "-", "-"]
    assert rows(done)["rank-6"][:2] == ["0.06", "ran 2 stages"]
    assert "thirteen is no rank" in done.err
    assert short(experiments(project)) == ["rank-6"]
    logs = sorted(p.suffix for p in (project.root / ".cache/sweep/mine").iterdir() if "rank-13" in p.name)
    assert logs == [".json", ".lock", ".log"]
    assert '"base": "other"' in made(project, "rank-6")
    assert "- base: other" in made(project, "rank-6", "params.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.lora.rnak=4,8", "Did you mean 'train.lora.rank'?"),
        ("train.lora.rank=4,0", "train.lora.rank is 0: expected at least 1"),
        ("train.lora.rank=4,many", "train.lora.rank: Value 'many'"),
        ("base=tiny,nothing", "nothing"),
    ],
)
def test_every_point_is_checked_before_anything_runs(toy: Project, override: str, told: str) -> None:
    done = sweep(toy, "-m", override)
    assert done.status == 1
    assert told in done.err
    assert "Traceback" not in done.text
    assert experiments(toy) == []
    assert not (toy.root / ".cache/sweep").exists()


def test_a_dirty_tree_is_refused_with_its_files(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    (project.root / "notes.txt").write_text("not committed\n", "utf-8")
    project.edit("score.py", "/ 100", "/ 10")
    done = sweep(project, "-m", "train.lora.rank=4,8")
    assert done.status == 1
    for told in ("notes.txt", "score.py", "git add -A && git commit"):
        assert told in done.err
    assert experiments(project) == []


def test_without_a_commit_there_is_no_sweep(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(UserError, match="HEAD"):
        clean_commit(tmp_path)


def test_names_tell_what_is_swept() -> None:
    swept = point_overrides(["++train.lora.rank=8", "++train.epochs=1", "sweep.name=x"])
    assert swept == ["++train.epochs=1", "++train.lora.rank=8"]
    name = point_name(PLAN, swept)
    assert name.startswith("rank-8-")
    assert name == point_name(PLAN, swept)
    assert name != point_name(PLAN, ["++train.epochs=1", "++train.lora.rank=16"])
    assert point_name(PLAN, ["++train.learning_rate=4e-4"]).startswith("learning_rate-4e-4-")
    assert point_name(PLAN, ["++pack.validation_share=0.1"]).startswith("validation_share-0.1-")
    assert point_name(PLAN, ["++train.lora.target_modules=[q_proj, v_proj]"]).startswith(
        "target_modules-q_proj-v_proj-"
    )
    assert point_name(PLAN, []).startswith("point-")


def test_what_all_points_have_is_known_however_it_is_typed() -> None:
    """A job has its overrides as Hydra says them."""
    fixed = as_hydra_says("++train.learning_rate=1e-4")
    assert fixed == "++train.learning_rate=0.0001"
    plan = replace(PLAN, fixed=(fixed, as_hydra_says("++train.lora.target_modules=[q_proj, v_proj]")))
    job = [
        "++train.learning_rate=0.0001",
        "++train.lora.rank=8",
        "++train.lora.target_modules=[q_proj,v_proj]",
    ]
    assert point_name(plan, job).startswith("rank-8-")
    assert swept(plan, job) == {"train.lora.rank": "8"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], "basic"), (["a=1", "hydra/sweeper=tpe"], "tpe"), (["hydra/sweeper=basic"], "basic")],
)
def test_which_sweeper_is_asked_for(overrides: list[str], expected: str) -> None:
    assert sweeper(overrides) == expected


def test_a_group_becomes_the_key_that_dvc_can_set(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("defaults: [{base: a}, {experiment: null}, _self_]\n", "utf-8")
    assert dvc_params(["experiment=quick", "++train.lora.rank=8"], params) == [
        "-S",
        "++defaults.1.experiment=quick",
        "-S",
        "++train.lora.rank=8",
    ]
    with pytest.raises(UserError, match="no group 'other' under `defaults`"):
        dvc_params(["other=1"], params)


def test_the_objective_is_a_number_in_a_metrics_file() -> None:
    assert objective('{"pass_at_1": 0.25}', PLAN) == 0.25
    for text in (
        '{"pass_at_1": null}',
        "{}",
        '{"pass_at_1": "high"}',
        '{"pass_at_1": true}',
        '{"pass_at_1": NaN}',
    ):
        with pytest.raises(UserError, match=r"'pass_at_1' in reports/evaluate/tuned\.json is"):
            objective(text, PLAN)


def test_stages_are_read_out_of_a_log() -> None:
    log = "Running stage 'config':\n> python\nStage 'base' is cached - skipping run\nRunning stage 'evaluate@tuned':\n"
    assert stages_run(log) == ["config", "evaluate@tuned"]


def result(number: int, p: float | None, difference: float | None = 0.05, weak: bool = False) -> Result:
    objective = None if p is None and difference is None else 0.5
    return Result(number, f"rank-{number}", "ran 3 stages", objective, 1.0, "", p, difference, weak)


def test_points_are_corrected_for_their_number() -> None:
    found = [result(1, 0.02), result(2, 0.012, -0.05), result(3, 0.9), result(4, None, None)]
    lines = [re.split(r"  +", line.strip()) for line in table(found, "pass_at_1")]
    assert lines[0] == ["point", "pass_at_1", "status", "points over base", "p", "p (Holm)", "take it over"]
    assert [line[3:6] for line in lines[1:]] == [
        ["+5.0", "0.020", "0.040"],
        ["-5.0", "0.012", "0.036"],
        ["+5.0", "0.900", "0.900"],
        ["-", "-", "-"],
    ]
    assert words(found) == [
        "Differs from the base by more than noise, Holm's correction over 3 points: rank-1 (better), rank-2 (worse)."
    ]
    assert words([result(1, 0.03), result(2, 0.04, weak=True)]) == [
        "Differs from the base by more than noise, Holm's correction over 2 points: no point.",
        "Judged in a weak sandbox (level C): rank-2.",
    ]


def test_without_a_comparison_the_table_has_none() -> None:
    found = [Result(0, "lr-1", "from the cache", 0.5, 1.0)]
    assert [re.split(r"  +", line) for line in table(found, "loss")] == [
        ["point", "loss", "status", "take it over"],
        ["lr-1", "0.5", "from the cache", "dvc exp apply lr-1"],
    ]
    assert words(found) == []
