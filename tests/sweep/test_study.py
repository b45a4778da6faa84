"""hydra/sweeper=tpe: points that Optuna chooses, pruning, and resuming after a kill."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from hydra_plugins.codetune.tpe import (
    TpeConf,
    TpeSweeper,
    distribution,
    make_sampler,
    out_of_patience,
    trial_overrides,
)
from stages.common.core.errors import UserError
from stages.sweep.spec import SweepSpec
from stages.sweep.study import (
    LIVE_CURVES,
    STUDY_LOG,
    Watcher,
    claim_study_folder,
    median_pruner,
    open_study,
    validation_losses,
)
from tests.helpers.tiny_project import Project
from tests.helpers.toy_pipeline import experiment_names, run_sweep, summary_rows

SPACE = ["train.lora.rank=4,8,16,32", "train.learning_rate=tag(log,interval(1e-5,1e-3))", "train.epochs=2"]


class Killed(Exception):
    pass


class Launcher:
    """Stands in for Hydra's launcher: a value falls with the distance from rank 16 and a rate of 1e-4."""

    def __init__(self, die_at: int = 10**9) -> None:
        self.points: list[dict[str, str]] = []
        self.values: list[float] = []
        self.die_at = die_at

    def launch(self, points: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        made = []
        for overrides in points:
            if len(self.points) == self.die_at:
                raise Killed
            point = dict(o.lstrip("+").split("=", 1) for o in overrides)
            self.points.append(point)
            rank, rate = int(point["train.lora.rank"]), float(point["train.learning_rate"])
            self.values.append(-abs(math.log2(rank / 16)) - abs(math.log10(rate / 1e-4)))
            made.append(SimpleNamespace(return_value=self.values[-1]))
        return made


def tpe(folder: Path, launcher: Launcher, **settings: Any) -> TpeSweeper:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from omegaconf import OmegaConf

    sweeper = TpeSweeper(**settings)
    (folder / "sweep/name").mkdir(parents=True, exist_ok=True)
    sweeper.config = OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(folder / "sweep/hydra/name")}}, "sweep": {}}
    )
    sweeper.launcher = launcher
    sweeper.hydra_context = SimpleNamespace(config_loader=ConfigLoaderImpl(ConfigSearchPathImpl()))
    return sweeper


def test_a_resumed_study_chooses_the_points_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Launcher(), Launcher(die_at=5), Launcher()
    tpe(tmp_path / "whole", whole, trials=9, startup=3).sweep(SPACE)
    with pytest.raises(Killed):
        tpe(tmp_path / "cut", first, trials=9, startup=3).sweep(SPACE)
    tpe(tmp_path / "cut", second, trials=9, startup=3).sweep(SPACE)
    assert len(whole.points) == 9
    assert {point["train.epochs"] for point in whole.points} == {"2"}
    assert (first.points + second.points) == (whole.points)
    assert len(first.points + second.points) == 9, "the interrupted point runs again, the others once"
    more = Launcher()
    tpe(tmp_path / "cut", more, trials=9, startup=3).sweep(SPACE)
    assert more.points == []
    assert (tmp_path / "cut/sweep/name" / STUDY_LOG).exists()


def test_points_improve_over_random_ones(tmp_path: Path) -> None:
    launcher = Launcher()
    tpe(tmp_path, launcher, trials=40, startup=8).sweep(SPACE)
    assert sum(launcher.values[-15:]) / 15 > sum(launcher.values[:8]) / 8 + 0.4  # the first eight are random
    rates = [math.log10(float(point["train.learning_rate"])) for point in launcher.points]
    assert abs(sum(rates[-15:]) / 15 + 4) < 0.25
    assert all(len(point["train.learning_rate"]) <= 9 for point in launcher.points), (
        "too many digits for a readable name"
    )


def test_batches_have_the_size_at_once_and_patience_ends_the_study(
    tmp_path: Path,
) -> None:
    sizes: list[int] = []

    class Flat(Launcher):
        def launch(self, points: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
            sizes.append(len(points))
            return [SimpleNamespace(return_value=0.5) for _ in points]

    tpe(tmp_path, Flat(), trials=30, at_once=4, patience=6).sweep(SPACE)
    assert sizes == [4, 4]  # the first point is the best, and none of the next seven is better


def test_values_that_were_tried_are_no_second_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher()
    space = ["train.lora.rank=4,8", "train.learning_rate=1e-4,1e-3"]
    tpe(tmp_path, launcher, trials=9, startup=2, at_once=2).sweep(space)
    tried = [tuple(point.values()) for point in launcher.points]
    assert sorted(tried) == sorted(set(tried)), "a point came twice"
    assert len(tried) == 4, "the space has four points"
    assert "were tried before; the study ends here" in capsys.readouterr().out


def test_points_chosen_together_lie_apart() -> None:
    assert make_sampler(TpeConf(at_once=4), 0)._constant_liar
    assert not make_sampler(TpeConf(), 0)._constant_liar


def test_a_study_has_the_sweep_s_direction(tmp_path: Path) -> None:
    launcher = Launcher()
    tpe(tmp_path, launcher, trials=1).sweep([*SPACE, "sweep.direction=minimize"])
    study = open_study(tmp_path / "sweep/name", "name", "minimize")
    assert study.direction.name == "MINIMIZE"
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=4,8", "CategoricalDistribution(choices=('4', '8'))"),
        ("a=int(interval(1,9))", "IntDistribution(high=9, log=False, low=1, step=1)"),
        ("a=interval(0.1,0.9)", "FloatDistribution(high=0.9, log=False, low=0.1, step=None)"),
        ("a=tag(log,interval(1e-5,1e-3))", "FloatDistribution(high=0.001, log=True, low=1e-05, step=None)"),
        ("a=range(2,8,2)", "CategoricalDistribution(choices=('2', '4', '6'))"),
        ("base=one,two", "CategoricalDistribution(choices=('one', 'two'))"),
    ],
)  # fmt: skip
def test_distributions(override: str, expected: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert repr(distribution(OverridesParser.create().parse_override(override))) == expected


def test_decimals_are_cut_within_their_interval() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    space = {
        "a": FloatDistribution(0, 1),
        "b": IntDistribution(1, 9),
        "c": CategoricalDistribution(("x",)),
        "d": FloatDistribution(0, 0.00123449),
        "e": FloatDistribution(0, 0.0012346),
    }
    values = {"a": 0.000123456, "b": 8, "c": "x", "d": 0.00123448, "e": 0.00123459}
    trial = create_trial(params=values, distributions=space, value=0)
    assert trial_overrides(trial) == ["a=0.0001235", "b=8", "c=x", "d=0.001234", "e=0.0012346"]


def test_a_sweep_that_optuna_cannot_draw_from_is_an_error() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with pytest.raises(UserError, match=r"base=glob\(\*\): expected choices"):
        distribution(OverridesParser.create().parse_override("base=glob(*)"))


def test_the_next_run_retries_failed_points(tmp_path: Path) -> None:
    class Failing(Launcher):
        def launch(self, points: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
            super().launch(points, initial_job_idx)
            return [SimpleNamespace(return_value=math.nan) for _ in points]

    failing, working = Failing(), Launcher()
    tpe(tmp_path, failing, trials=3).sweep(SPACE)
    tpe(tmp_path, working, trials=3).sweep(SPACE)
    assert len(failing.points) == 3
    assert (working.points) == (failing.points)
    study = open_study(tmp_path / "sweep/name", "name", "maximize")
    assert sum(t.state == TrialState.COMPLETE for t in study.trials) == 3


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    spec = SweepSpec(
        root="",
        commit="c1",
        cache="",
        tracking_uri="",
        git_identity=(),
        fixed=(),
        name="s",
        objective="a:b",
        tree="t1",
    )
    assert not claim_study_folder(tmp_path, spec, ["x=1,2"])
    assert claim_study_folder(tmp_path, spec, ["x=1,2"])
    for other, space, message in (
        (replace(spec, commit="c2"), ["x=1,2"], "another commit: c1, not c2"),
        (replace(spec, edited=True), ["x=1,2"], "another state of the files: c1, not t1"),
        (replace(spec, objective="a:c"), ["x=1,2"], "another objective"),
        (replace(spec, direction="minimize"), ["x=1,2"], "another direction"),
        (spec, ["x=1,2,3"], "another search space"),
    ):
        with pytest.raises(UserError, match=message):
            claim_study_folder(tmp_path, other, space)


def test_patience_counts_points_after_the_best(tmp_path: Path) -> None:
    study = open_study(tmp_path, "s", "maximize")
    assert not out_of_patience(study, 1)
    for value in (0.1, 0.3, 0.2):
        study.tell(study.ask(), value)
    assert (out_of_patience(study, 1), out_of_patience(study, 2), out_of_patience(study, 0)) == (
        True,
        False,
        False,
    )
    study.tell(study.ask(), state=TrialState.PRUNED)
    assert out_of_patience(study, 2)


def write_curve(clone: Path, losses: Sequence[float]) -> None:
    folder = clone / ".cache/train/key"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{10 * step},{loss}" for step, loss in enumerate(losses)]
    (folder / "train.csv").write_text("\n".join(["step,validation_loss", *lines, "99,"]) + "\n", "utf-8")


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_loss_above_the_median_ends_a_point(tmp_path: Path, direction: str) -> None:
    study = open_study(tmp_path, "s", direction, pruner=median_pruner(startup=2, after=15))
    for number, losses in enumerate(([2.0, 1.5, 1.0], [2.0, 1.4, 0.9], [2.0, 1.3, 0.8])):
        trial, watch = study.ask(), None
        watch = Watcher(trial, direction)
        write_curve(tmp_path / str(number), losses)
        assert watch(tmp_path / str(number)) == ""
        study.tell(trial, 0.5)
    bad = Watcher(study.ask(), direction)
    write_curve(tmp_path / "bad", [2.0, 1.9])
    assert bad(tmp_path / "bad") == "", "pruned before step 15"
    write_curve(tmp_path / "bad", [2.0, 1.9, 1.8])
    assert bad(tmp_path / "bad") == "at step 20"
    assert bad.trial.user_attrs == {"pruned": True}


def test_a_missing_curve_has_no_losses(tmp_path: Path) -> None:
    assert validation_losses(tmp_path / "none.csv") == []
    write_curve(tmp_path, [2.0, math.nan, 1.5])
    assert validation_losses(*tmp_path.glob(LIVE_CURVES)) == [(20, 1.5)]


def test_remaining_losses_are_reported_at_the_end(tmp_path: Path) -> None:
    study = open_study(tmp_path, "s", "minimize")
    watch = Watcher(study.ask(), "minimize")
    write_curve(tmp_path, [2.0, 1.5])
    assert watch(tmp_path) == ""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/train.csv").write_text("step,validation_loss\n0,2.0\n10,1.5\n20,1.2\n", "utf-8")
    watch.end(tmp_path)
    assert study.trials[0].intermediate_values == {10: 1.5, 20: 1.2}


@pytest.mark.slow
def test_a_study_of_real_points_prunes_and_resumes(toy: Project, tmp_path: Path) -> None:
    project = toy.copy(tmp_path / "project")
    project.edit(
        "score.py",
        "while Path(",
        "curve = Path('.cache/train/key/train.csv')\n"
        "curve.parent.mkdir(parents=True)\n"
        "curve.write_text(f'step,validation_loss\\n10,{2 - rank / 100 if rank > 5 else 9}\\n')\n"
        "if rank == 5: time.sleep(1000)\n"
        "while Path(",
    )
    project.commit("a curve, and rank 5 does not end")
    study = (
        "-m",
        "train.lora.rank=5,8",
        "hydra/sweeper=tpe",
        "hydra.sweeper.startup=1",
        "hydra.sweeper.seed=0",
    )
    done = run_sweep(project, *study, "hydra.sweeper.trials=1")
    assert done.status == 0, done.text
    assert {name: row[:2] for name, row in summary_rows(done).items()} == {"rank-8": ["8.0%", "ran 2 stages"]}
    more = run_sweep(project, *study, "hydra.sweeper.trials=2")  # rank 8 once more is no trial
    assert more.status == 0, more.text
    found = {name: row[:2] for name, row in summary_rows(more).items()}
    assert found == {"rank-8": ["8.0%", "ran 2 stages"], "rank-5": ["-", "pruned at step 10"]}
    assert experiment_names(project) == ["rank-8"]
    results = [json.loads(p.read_text("utf-8")) for p in project.root.glob(".cache/sweep/*/rank-*.json")]
    assert len(results) == 2


def test_settings_have_their_documented_defaults() -> None:
    assert (TpeConf().trials, TpeConf().at_once, TpeConf().prune) == (20, 1, True)
