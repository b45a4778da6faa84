"""hydra/sweeper=tpe: points that Optuna thinks up from what earlier ones came to.

    python -m stages.sweep -m hydra/sweeper=tpe hydra.sweeper.trials=20 \
        train.lora.rank=4,8,16,32 'train.learning_rate=tag(log,interval(1e-5,1e-3))'

Hydra looks for plugins in the package `hydra_plugins` alone. The stock hydra-optuna-sweeper that goes with Hydra 1.3 wants
Optuna 2.10, cannot prune and does not go on with a study: docs/decisions.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from stages.common.errors import UserError

SEEDS = 10_000  # more than any study has trials
DIGITS = 4  # of a number that is thought up: names and reports stay readable


@dataclass
class TpeConf:
    _target_: str = "hydra_plugins.codetune.tpe.TpeSweeper"
    trials: int = 20  # points in all, those of earlier runs of the same sweep included
    at_once: int = 1  # points that are thought up together, for a launcher that runs several at a time
    seed: int = 0
    startup: int = 5  # points at random before the others' results are used, and before any is pruned
    patience: int = 0  # the sweep ends after this many points without a better one; 0: never
    prune: bool = True  # end a training whose validation loss is above the median of the others' at its step
    prune_after: int = 0  # optimizer steps that every point may do


ConfigStore.instance().store(group="hydra/sweeper", name="tpe", node=TpeConf, provider="codetune")


class TpeSweeper(Sweeper):
    """Asks the study for points, has the launcher run them, and tells the study what they came to."""

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

        from stages.sweep.study import open_study

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides(arguments)
        space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        fixed = [
            f"{o.get_key_element()}={o.get_value_element_as_str()}"
            for o in parsed
            if not o.is_sweep_override()
        ]
        folder = Path(self.config.hydra.sweep.dir)  # .cache/sweep/hydra/<name>
        home = folder.parent.parent / folder.name
        given = (o.value() for o in parsed if o.key_or_group == "sweep.direction")
        direction = next(given, self.config.sweep.get("direction", "maximize"))
        study = open_study(home, folder.name, str(direction))
        again(study)
        while (left := self.settings.trials - ended(study)) > 0 and not stale(study, self.settings.patience):
            self.batch(study, space, fixed, min(left, self.settings.at_once))

    def batch(self, study: Any, space: Mapping[str, Any], fixed: list[str], count: int) -> None:
        trials, done = [], ended(study)
        for number in range(done, done + count):
            # a sampler of its own for each trial: a study that goes on thinks up what one that was never killed would
            study.sampler = sampler(self.settings, number)
            trials.append(study.ask(dict(space)))
        points = [[*fixed, *assigned(t), f"++sweep.trial={t.number}"] for t in trials]
        returned = self.launcher.launch(points, initial_job_idx=trials[0].number)
        for trial, job in zip(trials, returned, strict=True):
            tell(study, trial, float(job.return_value))


def distribution(override: Override) -> Any:
    """What Optuna draws a value from: choices as they are, an interval or a range of numbers; `tag(log, ...)`: logarithmic.

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
        f"hydra/sweeper=tpe: {override.input_line}: choices (4,8), interval(a,b) or range(a,b) are wanted"
    )


def assigned(trial: Any) -> list[str]:
    """Overrides of the values that a trial was given; decimals are cut to `DIGITS`, within their interval."""
    found = []
    for key, value in trial.params.items():
        if isinstance(value, float):
            drawn = trial.distributions[key]
            value = min(max(float(f"{value:.{DIGITS}g}"), drawn.low), drawn.high)
        found.append(f"{key}={value}")
    return found


def sampler(settings: TpeConf, number: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=settings.startup, seed=settings.seed * SEEDS + number)


def tell(study: Any, trial: Any, value: float) -> None:
    """How a trial ended: with a value, pruned (a loss is its last report, and no value came), or failed."""
    from optuna.trial import TrialState

    from stages.sweep.study import PRUNED

    if not math.isnan(value):
        study.tell(trial, value)
        return
    frozen = study.get_trials(deepcopy=False)[trial.number]
    study.tell(trial, state=TrialState.PRUNED if PRUNED in frozen.user_attrs else TrialState.FAIL)


def again(study: Any) -> None:
    """Put back into the queue what a killed sweep left running, and what failed."""
    from optuna.trial import TrialState

    from stages.sweep.study import AGAIN

    done_again = set(study.user_attrs.get(AGAIN, ()))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.number not in done_again:
            study.enqueue_trial(trial.params)
            done_again.add(trial.number)
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
    study.set_user_attr(AGAIN, sorted(done_again))


def ended(study: Any) -> int:
    """Trials that ended by themselves, whichever way, each counted once."""
    from stages.sweep.study import AGAIN

    trials: Sequence[Any] = study.get_trials(deepcopy=False)
    done_again = set(study.user_attrs.get(AGAIN, ()))
    return sum(t.state.is_finished() and t.number not in done_again for t in trials)


def stale(study: Any, patience: int) -> bool:
    """Whether the last `patience` points that came to a value or were pruned were no better than one before."""
    from optuna.trial import TrialState

    if not patience:
        return False
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if not any(t.state == TrialState.COMPLETE for t in done):
        return False
    best = study.best_trial.number
    return sum(t.number > best for t in done) >= patience
