"""The Optuna study of a sweep with hydra/sweeper=tpe, kept in a file so that it can be resumed."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, write_json
from stages.sweep.spec import SweepSpec

STUDY_LOG, STUDY_IDENTITY = "study.log", ".study"
LIVE_CURVES = ".cache/train/*/train.csv"  # in a clone, while its model trains
FINAL_CURVE = "reports/train.csv"  # in a clone whose pipeline has ended; until then it is the commit's
PRUNED_ATTRIBUTE = "pruned"  # of a trial
OVERRIDES_ATTRIBUTE = "overrides"  # of a trial: those that its job was started with
REPEATED_ATTRIBUTE = (
    "repeated"  # of a trial: the number of an earlier one with the same values; it was not run
)
REQUEUED_ATTRIBUTE = "again"  # of a study: numbers of the trials that were put back into the queue


def open_study(folder: Path, name: str, direction: str, pruner: Any = None) -> Any:
    """Open a sweep's optuna.Study, created if missing. Several processes may have it open."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY_LOG)))
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction=direction,
        pruner=pruner,
        load_if_exists=True,
    )


def claim_study_folder(folder: Path, spec: SweepSpec, space: Sequence[str]) -> bool:
    """Return whether the folder already holds this study; otherwise mark it as this study's.

    Raises:
        UserError: it holds a study of another commit, objective, direction or search space.
    """
    identity = {
        "commit": spec.commit,
        "state of the files": spec.state,
        "objective": spec.objective,
        "direction": spec.direction,
        "swept": sorted(space),
    }
    path = folder / STUDY_IDENTITY
    existing = read_json(path) if path.exists() else None
    for key, value in identity.items():
        if existing and existing.get(key) != value:
            what = "search space" if key == "swept" else key
            raise UserError(
                f"sweep.name: {folder} already holds a study '{spec.name}' with another {what}: "
                f"{existing.get(key)}, not {value}. Give this study another sweep.name."
            )
    write_json(path, identity)
    return existing is not None


def median_pruner(startup: int, after: int) -> Any:
    """Return a pruner that ends a point whose best validation loss so far is above the others' median.

    It compares with the others at the same step.

    Args:
        startup: points that have to end before any is pruned.
        after: optimizer steps that every point may do.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=after)


def make_watcher(spec: SweepSpec, hydra: Any) -> "Watcher | None":
    """Return what watches a point's validation losses while it trains; None if the sweep does not prune."""
    sweeper = hydra.sweeper
    if hydra.runtime.choices["hydra/sweeper"] != "tpe" or not sweeper.prune:
        return None
    from optuna.trial import Trial, TrialState

    pruner = median_pruner(sweeper.startup, sweeper.prune_after)
    study = open_study(spec.folder, spec.name, spec.direction, pruner=pruner)
    own = set(hydra.overrides.task)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    trial = next((t for t in running if own >= set(t.user_attrs.get(OVERRIDES_ATTRIBUTE, ["?"]))), None)
    return Watcher(Trial(study, trial._trial_id), spec.direction) if trial else None


class Watcher:
    """Reports each validation loss to the study once. A call returns why the point should end, or ''."""

    def __init__(self, trial: Any, direction: str) -> None:
        self.trial = trial
        # A study has one direction, and a lower loss is always better
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.reported: set[int] = set()

    def __call__(self, clone: Path) -> str:
        for step, loss in validation_losses(*clone.glob(LIVE_CURVES)):
            if self.report(step, loss) and self.trial.should_prune():
                self.trial.set_user_attr(PRUNED_ATTRIBUTE, True)
                return f"at step {step}"
        return ""

    def end(self, clone: Path) -> None:
        """Report the remaining losses: those of a training that was quick or came from the cache."""
        curves = [clone / FINAL_CURVE] if (clone / FINAL_CURVE).exists() else clone.glob(LIVE_CURVES)
        for step, loss in validation_losses(*curves):
            self.report(step, loss)

    def report(self, step: int, loss: float) -> bool:
        """Report a loss unless the step was reported before; return whether it was new."""
        if step in self.reported:
            return False
        self.reported.add(step)
        self.trial.report(self.sign * loss, step)
        return True


def validation_losses(*curves: Path) -> list[tuple[int, float]]:
    """Return the steps and validation losses in curves that a training may still be writing."""
    losses = []
    for path in curves:
        try:
            rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        except OSError:  # replaced or removed at this moment
            continue
        losses += [
            (int(row["step"]), float(row["validation_loss"])) for row in rows if row["validation_loss"]
        ]
    return [(step, loss) for step, loss in losses if step > 0 and math.isfinite(loss)]
