"""Sweeps: each point a DVC experiment and an MLflow run, the user's tree untouched.

Over a toy pipeline of config and a quick stage; tests/pipeline/test_experiments.py sweeps over the real stages.
"""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from stages.common.core.errors import UserError
from stages.common.core.files import write_metrics
from stages.common.git import experiment_ref, snapshot_tree
from stages.config.compose import compose_config, plain_values
from stages.sweep.cost import describe_cost, rerun_metrics
from stages.sweep.point import parse_objective, parse_ran_stages
from stages.sweep.settings import SweepSettings
from stages.sweep.spec import (
    SweepSpec,
    chosen_sweeper,
    dvc_params,
    normalise_override,
    pin_sweep,
    point_name,
    point_overrides,
    swept_values,
)
from tests.helpers.sweep_points import make_repository
from tests.helpers.tiny_project import REPOSITORY, Project
from tests.helpers.toy_pipeline import (
    experiment_names,
    read_experiment,
    run_sweep,
    summary_rows,
    user_files,
)

SPEC = SweepSpec(
    root="/repository",
    commit="c" * 40,
    cache="/cache",
    tracking_uri="sqlite:////repository/mlflow.db",
    git_identity=(),
    fixed=("++train.epochs=1",),
    name="sweep",
    objective="reports/evaluate/tuned.json:pass_at_1",
    tree="d" * 40,
)


@pytest.mark.slow
def test_points_become_experiments_and_the_tree_is_untouched(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    before, head = user_files(project), project.git("rev-parse", "HEAD")
    done = run_sweep(project, "-m", "train.lora.rank=4,8")
    assert done.status == 0, done.text
    assert {name: row[:2] for name, row in summary_rows(done).items()} == {
        "rank-4": ["4.0%", "ran 2 stages"],
        "rank-8": ["8.0%", "ran 2 stages"],
    }
    assert experiment_names(project) == ["rank-4", "rank-8"]
    assert user_files(project) == before
    assert project.git("status", "--porcelain") == ""
    assert (project.git("rev-parse", "HEAD"), project.git("branch", "--list")) == (head, "* main")
    assert list((project.root / ".cache/sweep").rglob("params.yaml")) == [], "a clone was left behind"
    assert f"sqlite:///{project.root}/mlflow.db" in read_experiment(project, "rank-4"), (
        "not the store of the clone"
    )

    again = run_sweep(project, "train.lora.rank=8,4")  # -m is not needed: a sweep is always one
    assert {row[1] for row in summary_rows(again).values()} == {"already done"}
    assert summary_rows(again)["rank-8"][:3] == ["8.0%", "already done", "+3.0 (p 0.050)"]
    assert summary_rows(done)["rank-4"][2] == "+3.0 (p 0.050)"
    assert "sweep: 2 points; no run here has been timed" in done.out
    assert re.findall(r"\[(\d) of 2\] rank-\d: (?:started|pass@1 \S+, ran 2 stages, )", done.out) == [*"1122"]
    nothing_differs = (
        "No point differs from the base in pass@1 by more than noise (Holm's correction for 2 points)."
    )
    assert nothing_differs in done.out  # 0.025 alone would be more than noise
    assert nothing_differs in again.out

    (project.root / "notes.txt").write_text("a new commit\n", "utf-8")
    project.commit()
    moved = run_sweep(project, "-m", "train.lora.rank=8")
    assert summary_rows(moved)["rank-8"][:3] == ["8.0%", "from the cache", "+3.0 (p 0.025)"]
    assert "It differs from the base in pass@1 by more than noise (+3.0 points, p = 0.025)." in moved.out

    project.dvc("exp", "apply", experiment_names(project)[0])
    applied = project.repro()
    assert applied.ran == []
    assert "rank: 8" in (project.root / "params.yaml").read_text("utf-8")


@pytest.mark.slow
def test_a_failed_point_does_not_end_the_others_and_groups_can_be_swept(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    done = run_sweep(project, "-m", "base=other", "train.lora.rank=13,6", "sweep.name=mine")
    assert done.status == 1
    assert summary_rows(done)["rank-13-base-other"] == ["-", "failed", "-"]
    assert summary_rows(done)["rank-6-base-other"][:2] == ["6.0%", "ran 2 stages"]
    assert "rank 13 fails" in done.err
    assert experiment_names(project) == ["rank-6-base-other"]
    logs = sorted(p.suffix for p in (project.root / ".cache/sweep/mine").iterdir() if "rank-13" in p.name)
    assert logs == [".json", ".lock", ".log"]
    assert '"base": "other"' in read_experiment(project, "rank-6-base-other")
    assert "- base: other" in read_experiment(project, "rank-6-base-other", "params.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lora.rnak=4,8", "Did you mean 'train.lora.rank'?"),
        ("train.lora.rank=4,0", "train.lora.rank is 0: expected at least 1"),
        ("train.lora.rank=4,many", "train.lora.rank: Value 'many'"),
        ("base=tiny,nothing", "nothing"),
    ],
)
def test_every_point_is_checked_before_anything_runs(toy: Project, override: str, message: str) -> None:
    done = run_sweep(toy, "-m", override)
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.text
    assert experiment_names(toy) == []
    assert not (toy.root / ".cache/sweep").exists()


@pytest.mark.slow
def test_a_sweep_starts_from_what_is_on_disk(toy: Project, tmp_path: Path) -> None:
    """As after `make demo`: the pipeline has rewritten tracked files, and the user has edited some."""
    project = toy.copy(tmp_path / "project")
    (project.root / "notes.txt").write_text("new\n", "utf-8")
    (project.root / "conf/base/other.yaml").unlink()
    project.edit("score.py", "/ 100", "/ 10")
    project.git("add", "notes.txt")
    before, status = user_files(project), project.git("status", "--porcelain")
    done = run_sweep(project, "-m", "train.lora.rank=4")
    assert done.status == 0, done.text
    head = project.git("rev-parse", "--short=7", "HEAD")
    assert (
        f"starts from commit {head} and what is on disk: conf/base/other.yaml, notes.txt, score.py"
        in done.out
    )
    [name] = experiment_names(project)
    assert re.fullmatch(r"rank-4-[0-9a-f]{8}", name), "edits are not in the words of a name"
    assert summary_rows(done)[name][:2] == ["40.0%", "ran 2 stages"]
    assert read_experiment(project, name, "notes.txt") == "new"
    assert "conf/base/other.yaml" not in project.git(
        "ls-tree", "-r", "--name-only", experiment_ref(project.git("rev-parse", "HEAD"), name)
    )
    assert (user_files(project), project.git("status", "--porcelain")) == (before, status)

    project.dvc("exp", "apply", name)
    assert "rank: 4" in (project.root / "params.yaml").read_text("utf-8")
    assert (project.root / "notes.txt").read_text("utf-8") == "new\n"
    assert not (project.root / "conf/base/other.yaml").exists()
    project.edit("score.py", "/ 10", "/ 50")
    [row] = summary_rows(run_sweep(project, "-m", "train.lora.rank=4")).values()
    assert row[:2] == ["8.0%", "ran 1 stage"]


def test_a_large_file_that_nobody_tracks_is_not_copied_into_git(tmp_path: Path) -> None:
    make_repository(tmp_path)
    with (tmp_path / "model.gguf").open("wb") as file:
        file.truncate(101 << 20)
    with pytest.raises(
        UserError, match=r"model\.gguf: 101 MiB that neither git nor DVC tracks.*dvc add model\.gguf"
    ):
        snapshot_tree(tmp_path)


def test_without_a_commit_there_is_no_sweep(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(UserError, match="HEAD"):
        pin_sweep(tmp_path, [], SweepSettings(), "", 1)


def test_a_point_is_named_after_its_swept_values() -> None:
    overrides = point_overrides(["++train.lora.rank=8", "++train.epochs=1", "sweep.name=x"])
    assert overrides == ["++train.epochs=1", "++train.lora.rank=8"]
    assert point_name(SPEC, overrides) == "rank-8-epochs-1"
    assert point_name(SPEC, ["++train.learning_rate=4e-05"]) == "learning_rate-4e-05"
    assert point_name(SPEC, ["base=codellama-7b"]) == "base-codellama-7b"
    assert point_name(SPEC, ["base=my-rank-8"]).startswith("base-my-rank-8-"), "it could be a base and a rank"
    assert point_name(SPEC, []) == "point"


def test_points_that_differ_have_names_that_differ() -> None:
    assert point_name(SPEC, ["train.seed=1"]) == "train.seed-1"
    assert point_name(SPEC, ["pack.seed=1"]) == "pack.seed-1"
    odd = "++train.lora.target_modules=[q_proj,v_proj]", "++train.lora.target_modules=[q_proj-v_proj]"
    first, second = (point_name(SPEC, [override]) for override in odd)
    assert first.startswith("target_modules-q_proj-v_proj-")
    assert first != second
    long = [f"++train.lora.target_modules={'a' * 70}{end}" for end in "xy"]
    assert point_name(SPEC, long[:1]) != point_name(SPEC, long[1:])
    edited = replace(SPEC, edited=True)
    assert point_name(edited, ["train.seed=1"]) != point_name(
        replace(edited, tree="e" * 40), ["train.seed=1"]
    )


def test_overrides_of_all_points_are_recognised_however_they_are_typed() -> None:
    """Hydra rewrites the overrides that it passes to a job."""
    fixed = normalise_override("++train.learning_rate=1e-4")
    assert fixed == "++train.learning_rate=0.0001"
    spec = replace(SPEC, fixed=(fixed, normalise_override("++train.lora.target_modules=[q_proj, v_proj]")))
    job = [
        "++train.learning_rate=0.0001",
        "++train.lora.rank=8",
        "++train.lora.target_modules=[q_proj,v_proj]",
    ]
    assert point_name(spec, job).startswith("rank-8-learning_rate-0.0001-target_modules-q_proj-v_proj-")
    assert swept_values(spec, job) == {"train.lora.rank": "8"}
    many = replace(spec, fixed=(*spec.fixed, "++evaluate.benchmarks=[mbpp-dev]"))
    name = point_name(many, [*job, "++evaluate.benchmarks=[mbpp-dev]"])
    assert re.fullmatch(r"rank-8-[0-9a-f]{8}", name), "what all points share does not fit: only what differs"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], "basic"), (["a=1", "hydra/sweeper=tpe"], "tpe"), (["hydra/sweeper=basic"], "basic")],
)
def test_the_sweeper_is_read_from_the_command_line(overrides: list[str], expected: str) -> None:
    assert chosen_sweeper(overrides) == expected


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
    assert parse_objective('{"pass_at_1": 0.25}', SPEC) == 0.25
    for text in (
        '{"pass_at_1": null}',
        "{}",
        '{"pass_at_1": "high"}',
        '{"pass_at_1": true}',
        '{"pass_at_1": NaN}',
    ):
        with pytest.raises(UserError, match=r"'pass_at_1' in reports/evaluate/tuned\.json is"):
            parse_objective(text, SPEC)


def test_stages_are_read_out_of_a_log() -> None:
    log = "Running stage 'config':\n> python\nStage 'base' is cached - skipping run\nRunning stage 'evaluate@tuned':\n"
    assert parse_ran_stages(log) == ["config", "evaluate@tuned"]


def test_a_point_costs_the_stages_that_its_settings_rerun() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text("utf-8"))["stages"]
    names = {
        frozenset(changed): [
            path.relative_to("reports").as_posix() for path in rerun_metrics(stages, changed)
        ]
        for changed in ({"train"}, {"evaluate"}, {"report"}, set())
    }
    assert names[frozenset({"train"})] == ["train.json", "merge.json", "evaluate/tuned.json", "report.json"]
    assert names[frozenset({"evaluate"})] == ["evaluate/base.json", "evaluate/tuned.json", "report.json"]
    assert names[frozenset({"report"})] == ["report.json"]
    assert names[frozenset()] == []


def test_what_a_sweep_will_cost_is_said_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    points = [compose_config(f"++train.lora.rank={rank}", "++train.max_steps=4") for rank in (8, 24)]
    monkeypatch.chdir(tmp_path)
    assert "2 points; no run here has been timed" in describe_cost(points, 2)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    composed = OmegaConf.create({name: plain_values(section) for name, section in points[0].items()})
    (tmp_path / "reports").mkdir()
    OmegaConf.save(composed, tmp_path / "reports/config.yaml")
    for name, seconds in (("train", 600), ("merge", 30), ("evaluate/tuned", 60), ("report", 10)):
        write_metrics(f"reports/{name}.json", {"steps": 40} if name == "train" else {}, {"seconds": seconds})
    assert describe_cost(points, 2) == (
        "sweep: 2 points, up to 2 min 40 s each by the last run here, 2 min 40 s in all.\n"
        "Every point trains 4 steps only (train.max_steps): enough to see that a sweep runs, not to compare its points."
    ), "the first point has been run, and 4 of 40 steps take a tenth of the time"
    assert "20 points, up to 2 min 40 s each by the last run here, 53 min 20 s in all" in describe_cost(
        points[1:], 20
    )
