"""hydra/sweeper=tpe: Optuna chooses each point from the results of earlier ones.

    python -m stages.sweep -m hydra/sweeper=tpe hydra.sweeper.trials=20 \
        train.lora.rank=4,8,16,32 'train.learning_rate=tag(log,interval(1e-5,1e-3))'

Hydra looks for plugins only in the package `hydra_plugins`. The stock hydra-optuna-sweeper for Hydra 1.3 needs
Optuna 2.10, cannot prune and does not resume a study: docs/decisions.md.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from stages.common.core.errors import UserError
from stages.sweep.study import (
    OVERRIDES_ATTRIBUTE,
    PRUNED_ATTRIBUTE,
    REPEATED_ATTRIBUTE,
    REQUEUED_ATTRIBUTE,
    open_study,
)

SEED_STRIDE = 10_000  # more than any study has trials
MOST_REPEATS = 20  # proposals that were tried before, in a row
SIGNIFICANT_DIGITS = 4  # of a drawn number, to keep names and reports readable


@dataclass
class TpeConf:
    _target_: str = "hydra_plugins.codetune.tpe.TpeSweeper"
    # Points in all, including those of earlier runs of the same sweep
    trials: int = 20
    # Points that are chosen together, for a launcher that runs several at the same time
    at_once: int = 1
    seed: int = 0
    # Random points before the results of others are used, and before any point is pruned
    startup: int = 5
    # The sweep ends after this many points without a better one; 0: never
    patience: int = 0
    # End a training whose validation loss is above the median of the others' at the same step
    prune: bool = True
    # Optimizer steps that every point may do
    prune_after: int = 0


ConfigStore.instance().store(group="hydra/sweeper", name="tpe", node=TpeConf, provider="codetune")


class TpeSweeper(Sweeper):
    """Asks the study for points, has the launcher run them, and tells the study their values."""

    def __init__(self, **settings: Any) -> None:
        self.settings = TpeConf(**settings)
        self.config: Any = None
        self.launcher: Any = None
        self.hydra_context: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        fixed = [
            f"{o.get_key_element()}={o.get_value_element_as_str()}"
            for o in overrides
            if not o.is_sweep_override()
        ]
        hydra_folder = Path(self.config.hydra.sweep.dir)  # .cache/sweep/hydra/<name>
        name, folder = hydra_folder.name, hydra_folder.parent.parent / hydra_folder.name
        given = (o.value() for o in overrides if o.key_or_group == "sweep.direction")
        direction = next(given, self.config.sweep.get("direction", "maximize"))
        study = open_study(folder, name, str(direction))
        requeue(study)
        while (left := self.settings.trials - count_finished(study)) > 0 and not out_of_patience(
            study, self.settings.patience
        ):
            if not self.run_batch(study, space, fixed, min(left, self.settings.at_once)):
                break

    def run_batch(self, study: Any, space: Mapping[str, Any], fixed: list[str], count: int) -> bool:
        """Run up to `count` new points; return whether there was one: a small space has only so many."""
        trials: list[Any] = []
        for _ in range(count + MOST_REPEATS):
            # A sampler per trial: a resumed study chooses the points of an uninterrupted one
            study.sampler = make_sampler(self.settings, count_asked(study) + len(trials))
            trial = study.ask(dict(space))
            trial.set_user_attr(OVERRIDES_ATTRIBUTE, trial_overrides(trial))
            if not tell_repeated(study, trial):
                trials.append(trial)
            if len(trials) == count:
                break
        if not trials:
            print(
                f"sweep: {MOST_REPEATS} proposals in a row were tried before; the study ends here", flush=True
            )
            return False
        points = [[*fixed, *trial.user_attrs[OVERRIDES_ATTRIBUTE]] for trial in trials]
        jobs = self.launcher.launch(points, initial_job_idx=trials[0].number)
        for trial, job in zip(trials, jobs, strict=True):
            tell_value(study, trial, float(job.return_value))
        return True


def distribution(override: Override) -> Any:
    """Return the Optuna distribution of a swept override: choices, or the numbers of an interval or a range.

    `tag(log, ...)` makes it logarithmic.

    Raises:
        UserError: a sweep of another kind.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    log = isinstance(value, IntervalSweep | RangeSweep) and "log" in value.tags
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(tuple(override.sweep_string_iterator()))
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        return CategoricalDistribution(tuple(override.sweep_string_iterator()))
    raise UserError(
        f"hydra/sweeper=tpe cannot draw values from {override.input_line}: "
        "expected choices (4,8), interval(a,b) or range(a,b)"
    )


def trial_overrides(trial: Any) -> list[str]:
    """Return the overrides of a trial's values; decimals are rounded, but stay within their interval."""
    overrides = []
    for key, value in trial.params.items():
        if isinstance(value, float):
            interval = trial.distributions[key]
            value = min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), interval.low), interval.high)
        overrides.append(f"{key}={value}")
    return overrides


def make_sampler(settings: TpeConf, number: int) -> Any:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    # The liar takes points that still run for bad ones: those that are chosen together lie apart
    liar, seed = settings.at_once > 1, settings.seed * SEED_STRIDE + number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(n_startup_trials=settings.startup, seed=seed, constant_liar=liar)


def tell_repeated(study: Any, trial: Any) -> bool:
    """Whether an earlier point had this trial's values; the study is then told that point's end once more."""
    from optuna.trial import TrialState

    ended_or_running = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    for earlier in study.get_trials(deepcopy=False, states=ended_or_running):
        same = earlier.user_attrs.get(OVERRIDES_ATTRIBUTE) == trial.user_attrs[OVERRIDES_ATTRIBUTE]
        if same and earlier.number != trial.number:
            trial.set_user_attr(REPEATED_ATTRIBUTE, earlier.number)
            done = earlier.state == TrialState.COMPLETE
            study.tell(trial, earlier.value if done else None, None if done else TrialState.PRUNED)
            return True
    return False


def tell_value(study: Any, trial: Any, value: float) -> None:
    """Tell the study how a trial ended: with a value, or with NaN because it was pruned or failed.

    A pruned trial has no value: its last report is a loss.
    """
    from optuna.trial import TrialState

    if not math.isnan(value):
        study.tell(trial, value)
        return
    frozen = study.get_trials(deepcopy=False)[trial.number]
    pruned = PRUNED_ATTRIBUTE in frozen.user_attrs
    study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def requeue(study: Any) -> None:
    """Put the trials that failed, or that a killed sweep left running, back into the queue."""
    from optuna.trial import TrialState

    requeued = set(study.user_attrs.get(REQUEUED_ATTRIBUTE, ()))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.number not in requeued:
            study.enqueue_trial(trial.params)  # its overrides are those of the point that is repeated
            requeued.add(trial.number)
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
    study.set_user_attr(REQUEUED_ATTRIBUTE, sorted(requeued))


def count_finished(study: Any) -> int:
    """Return how many points have ended in any way, counting a requeued one once and repeated ones not at all."""
    return sum(REPEATED_ATTRIBUTE not in trial.user_attrs for trial in ended_trials(study))


def count_asked(study: Any) -> int:
    """Return how many proposals have ended, counting a requeued one once, repeated ones too."""
    return len(ended_trials(study))


def ended_trials(study: Any) -> list[Any]:
    requeued = set(study.user_attrs.get(REQUEUED_ATTRIBUTE, ()))
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.number not in requeued]


def out_of_patience(study: Any, patience: int) -> bool:
    """Whether the last `patience` points, completed or pruned, were no better than an earlier one; 0: never."""
    from optuna.trial import TrialState

    if not patience:
        return False
    ended = [
        t
        for t in ended_trials(study)
        if t.state != TrialState.FAIL and REPEATED_ATTRIBUTE not in t.user_attrs
    ]
    if not any(t.state == TrialState.COMPLETE for t in ended):
        return False
    best = study.best_trial.number
    return sum(t.number > best for t in ended) >= patience
