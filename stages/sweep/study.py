"""The Optuna study of a sweep with hydra/sweeper=tpe: kept in a file, so that a killed one goes on."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.sweep.plan import Plan

FILE = "study.log"
CURVES = ".cache/train/*/train.csv"  # of a clone, while its model trains
PRUNED, INTERRUPTED = "pruned", "interrupted"  # attributes of a trial


def open_study(folder: Path, name: str, direction: str, sampler: Any = None, pruner: Any = None) -> Any:
    """The optuna.Study of a sweep, made where it is missing. Several processes may have it open."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / FILE)))
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction=direction,
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )


def median_pruner(startup: int, after: int) -> Any:
    """Ends a point whose best validation loss so far is above the median of the others' at the same step.

    Args:
        startup: points that end before one is pruned.
        after: optimizer steps that every point may do.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=after)


def watcher(plan: Plan, hydra: Any, trial: int) -> Callable[[Path], str] | None:
    """What looks at a point's validation losses while it trains; None where nothing is pruned."""
    sweeper = hydra.sweeper
    if hydra.runtime.choices["hydra/sweeper"] != "tpe" or not sweeper.prune or trial < 0:
        return None
    from optuna.trial import Trial

    pruner = median_pruner(sweeper.startup, sweeper.prune_after)
    study = open_study(plan.folder, plan.name, plan.direction, pruner=pruner)
    running = next(t for t in study.get_trials(deepcopy=False) if t.number == trial)
    return Watcher(Trial(study, running._trial_id), plan.direction)


class Watcher:
    """Reports each validation loss to the study once; words when the point is to be ended."""

    def __init__(self, trial: Any, direction: str) -> None:
        self.trial = trial
        # a study has one direction, and a loss is the better the lower it is
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.reported: set[int] = set()

    def __call__(self, clone: Path) -> str:
        for step, loss in validation_losses(clone):
            if step not in self.reported:
                self.reported.add(step)
                self.trial.report(self.sign * loss, step)
                if self.trial.should_prune():
                    self.trial.set_user_attr(PRUNED, True)
                    return f"at step {step}"
        return ""


def validation_losses(clone: Path) -> list[tuple[int, float]]:
    """Step and validation loss of the rows of the curve that a training has made so far."""
    found = []
    for path in clone.glob(CURVES):
        try:
            rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        except OSError:  # replaced or removed at this moment
            continue
        found += [(int(row["step"]), float(row["validation_loss"])) for row in rows if row["validation_loss"]]
    return [(step, loss) for step, loss in found if step > 0 and math.isfinite(loss)]
