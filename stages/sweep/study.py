"""The Optuna study of a sweep with hydra/sweeper=tpe: kept in a file, so that a killed one goes on."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.sweep.spec import Plan

FILE, IDENTITY = "study.log", ".study"
CURVES = ".cache/train/*/train.csv"  # of a clone, while its model trains
FINAL_CURVE = "reports/train.csv"  # of a clone whose pipeline has ended; before, that of the commit
PRUNED = "pruned"  # attribute of a trial
AGAIN = "again"  # attribute of a study: numbers of trials that were put back into the queue


def open_study(folder: Path, name: str, direction: str, pruner: Any = None) -> Any:
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
        pruner=pruner,
        load_if_exists=True,
    )


def goes_on(folder: Path, plan: Plan, space: Sequence[str]) -> bool:
    """Whether the folder holds this very study; else it is made its folder.

    Raises:
        UserError: it holds another: of another commit, objective, direction, or with other things swept.
    """
    own = {
        "commit": plan.commit,
        "objective": plan.objective,
        "direction": plan.direction,
        "swept": sorted(space),
    }
    path = folder / IDENTITY
    there = read_json(path) if path.exists() else None
    for key, value in own.items():
        if there and there.get(key) != value:
            raise UserError(
                f"sweep.name: the study '{plan.name}' in {folder} has another {key}: {there.get(key)}, not {value}. "
                "Give this one another name."
            )
    write_json(path, own)
    return there is not None


def median_pruner(startup: int, after: int) -> Any:
    """Ends a point whose best validation loss so far is above the median of the others' at the same step.

    Args:
        startup: points that end before one is pruned.
        after: optimizer steps that every point may do.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=after)


def watcher(plan: Plan, hydra: Any, trial: int) -> "Watcher | None":
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
        for step, loss in validation_losses(*clone.glob(CURVES)):
            if self.report(step, loss) and self.trial.should_prune():
                self.trial.set_user_attr(PRUNED, True)
                return f"at step {step}"
        return ""

    def end(self, clone: Path) -> None:
        """Report what is left: a training that is quick, or came from the cache, was not seen at work."""
        curves = [clone / FINAL_CURVE] if (clone / FINAL_CURVE).exists() else clone.glob(CURVES)
        for step, loss in validation_losses(*curves):
            self.report(step, loss)

    def report(self, step: int, loss: float) -> bool:
        """Whether it was not reported before."""
        if step in self.reported:
            return False
        self.reported.add(step)
        self.trial.report(self.sign * loss, step)
        return True


def validation_losses(*curves: Path) -> list[tuple[int, float]]:
    """Step and validation loss of the rows of curves, as a training has made them so far."""
    found = []
    for path in curves:
        try:
            rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        except OSError:  # replaced or removed at this moment
            continue
        found += [(int(row["step"]), float(row["validation_loss"])) for row in rows if row["validation_loss"]]
    return [(step, loss) for step, loss in found if step > 0 and math.isfinite(loss)]
