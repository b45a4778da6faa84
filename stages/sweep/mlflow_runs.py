"""The sweep's own run in MLflow, under which the runs of its points are nested."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.core.stage import COMPOSED_CONFIG
from stages.common.git import experiment_ref, read_blob
from stages.sweep.point import PointOutcome
from stages.sweep.spec import SweepSpec
from stages.track.settings import TrackSettings
from stages.track.store import (
    PARENT_TAG,
    SWEEP_TAG,
    RunIdentity,
    Store,
    StoreUnavailable,
    find_runs,
    open_store,
    translate_errors,
)

EXPERIMENT_TAG = "codetune.dvc_experiment"
COMMIT_TAG = "mlflow.source.git.commit"


def open_run(track: TrackSettings, spec: SweepSpec) -> str:
    """Return the id of the sweep's run, created if missing; empty if the store does not answer.

    Also creates the tables of a sqlite store: points that start at the same time would race for it.
    """

    def start(store: Store) -> str:
        run_id = find_or_create_sweep_run(store, spec)
        store.client.update_run(run_id, status="RUNNING")
        return run_id

    return call_store(track, start, "The runs of its points are not nested under it.") or ""


def close_run(track: TrackSettings, spec: SweepSpec, outcomes: Sequence[PointOutcome], report: Path) -> None:
    """Nest the points' runs under the sweep's, and log its best point and its report.

    A run nested under another sweep is moved here: MLflow knows one parent.
    """

    def complete(store: Store) -> bool:
        run_id = find_or_create_sweep_run(store, spec)
        for outcome in outcomes:
            children = find_point_runs(store, spec, outcome)
            if children == []:  # made while the store did not answer, or for another store
                print(
                    f"MLflow: no run of {outcome.name}. To send it: `dvc exp apply {outcome.name}`, "
                    "then `dvc repro -f -s track`.",
                    flush=True,
                )
            for child in children or []:
                tags = {PARENT_TAG: run_id, SWEEP_TAG: spec.name, EXPERIMENT_TAG: outcome.name}
                for name, value in tags.items():
                    store.client.set_tag(child.info.run_id, name, value)
        for key, value in summary_tags(spec, outcomes).items():
            store.client.set_tag(run_id, key, value)
        if best := best_outcome(spec, outcomes):
            store.client.log_metric(run_id, f"best/{spec.objective.split(':')[1]}", best.objective)
        scored = sum(outcome.objective is not None for outcome in outcomes)
        store.client.log_metric(run_id, "points", scored)
        if report.is_dir():
            store.client.log_artifacts(run_id, str(report))
        failed = any(outcome.status == "failed" for outcome in outcomes)
        store.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        return True

    call_store(track, complete, "Rerun the same command to complete it.")


def summary_tags(spec: SweepSpec, outcomes: Sequence[PointOutcome]) -> Mapping[str, str]:
    """Return the tag that MLflow shows as the description of the sweep's run."""
    best = best_outcome(spec, outcomes)
    best_text = f"Best: {best.name}, {spec.objective} {best.objective:.4g}. " if best else ""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    failed_text = f", {failed} of them failed" if failed else ""
    return {
        "mlflow.note.content": f"{best_text}{len(outcomes)} points{failed_text}. Table: artifact index.html"
    }


def best_outcome(spec: SweepSpec, outcomes: Sequence[PointOutcome]) -> PointOutcome | None:
    """Return the point with the best objective, the first of equals; None if no point has one."""
    sign = -1 if spec.direction == "minimize" else 1
    scored = [outcome for outcome in outcomes if outcome.objective is not None]
    return max(scored, key=lambda outcome: sign * (outcome.objective or 0.0), default=None)


def find_or_create_sweep_run(store: Store, spec: SweepSpec) -> str:
    """Return the id of the sweep's own run, not a point's; created if missing."""
    query = f"tags.`{SWEEP_TAG}` = '{spec.name}' and tags.`{COMMIT_TAG}` = '{spec.commit}'"
    runs = store.client.search_runs([store.experiment_id], query, order_by=["attributes.start_time ASC"])
    run = next((run for run in runs if EXPERIMENT_TAG not in run.data.tags), None)
    if run is None:
        tags = {SWEEP_TAG: spec.name, COMMIT_TAG: spec.commit}
        run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"sweep {spec.name}")
    return str(run.info.run_id)


def find_point_runs(store: Store, spec: SweepSpec, outcome: PointOutcome) -> Sequence[Any] | None:
    """Return the runs of the point's model, whoever made them; None if the point has no model.

    A point that was already done, or came from the cache, made no run of its own.
    """
    if outcome.objective is None:
        return None
    ref, root = experiment_ref(spec.commit, outcome.name), Path(spec.root)
    train, config = (read_blob(ref, path, root) for path in ("reports/train.json", str(COMPOSED_CONFIG)))
    if train is None or config is None:
        return None
    key = str(json.loads(train).get("training_key"))
    return find_runs(store, RunIdentity(key, hashlib.sha256(config).hexdigest()))


def call_store(track: TrackSettings, action: Callable[[Store], Any], consequence: str) -> Any:
    """Return what `action` returns; if the store does not answer, print a line and return None."""
    try:
        store = open_store(track)
        with translate_errors(store.uri):
            return action(store)
    except StoreUnavailable as error:
        print(f"MLflow: {error}. The sweep's run is incomplete. {consequence}", flush=True)
        return None
