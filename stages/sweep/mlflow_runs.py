"""The sweep's own run in MLflow, under which the runs of its points are nested."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.common.core.stage import COMPOSED_CONFIG
from stages.common.git import experiment_ref, read_blob
from stages.sweep.results import Sweep, SweepPoint
from stages.sweep.spec import SweepSpec
from stages.sweep.words import describe_sweep, list_cautions
from stages.track.owner import OWNER_TAG, owner
from stages.track.runs import PARENT_TAG, SWEEP_TAG, RunIdentity, find_runs, search_runs
from stages.track.settings import TrackSettings
from stages.track.store import Store, StoreUnavailable, open_store, translate_errors

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


def close_run(track: TrackSettings, sweep: Sweep, report: Path) -> None:
    """Nest the points' runs under the sweep's, and log its best point and its report.

    A run of this clone that is nested under another sweep is moved here: MLflow knows one parent.
    """

    def complete(store: Store) -> bool:
        run_id = find_or_create_sweep_run(store, sweep.spec)
        for point in sweep.finished:
            children = find_point_runs(store, sweep.spec, point)
            if children == []:  # made while the store did not answer, or for another store
                print(
                    f"MLflow: no run of {point.name}. To send it: `dvc exp apply {point.name}`, "
                    "then `dvc repro -f -s track`.",
                    flush=True,
                )
            for child in children or []:
                tags = {PARENT_TAG: run_id, SWEEP_TAG: sweep.spec.name, EXPERIMENT_TAG: point.name}
                for name, value in tags.items():
                    store.client.set_tag(child.info.run_id, name, value)
        text = " ".join([*describe_sweep(sweep), *list_cautions(sweep), "Table: artifact index.html"])
        store.client.set_tag(run_id, "mlflow.note.content", text)  # MLflow shows it as the run's description
        if sweep.best:
            for metric, score in best_metrics(sweep.spec, sweep.best).items():
                store.client.log_metric(run_id, metric, score)
        store.client.log_metric(run_id, "points", len(sweep.finished))
        store.client.log_artifacts(run_id, str(report))
        failed = any(point.outcome.status == "failed" for point in sweep.points)
        store.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        return True

    call_store(track, complete, "Rerun the same command to complete it.")


def best_metrics(spec: SweepSpec, best: SweepPoint) -> dict[str, float]:
    """Return the best point's objective, and its score as its own run names it: the table of runs shows that."""
    found = {f"best/{spec.objective.split(':')[1]}": best.value}
    for end in ("", "_low", "_high"):
        found[f"tuned/pass_at_1{end}"] = best.metrics.get("evaluate/tuned", {}).get(f"pass_at_1{end}")
    return {name: value for name, value in found.items() if value is not None}


def find_or_create_sweep_run(store: Store, spec: SweepSpec) -> str:
    """Return the id of this clone's run of the sweep, not of a point; created if missing."""
    tags = {SWEEP_TAG: spec.name, COMMIT_TAG: spec.commit, OWNER_TAG: owner()}
    runs = search_runs(store, tags)
    run = next((run for run in runs if EXPERIMENT_TAG not in run.data.tags), None)
    if run is None:
        run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"sweep {spec.name}")
    return str(run.info.run_id)


def find_point_runs(store: Store, spec: SweepSpec, point: SweepPoint) -> Sequence[Any] | None:
    """Return this clone's runs of the point's model; None if the point has no model.

    A point that was already done, or came from the cache, made no run of its own.
    """
    ref, root = experiment_ref(spec.commit, point.name), Path(spec.root)
    train, config = (read_blob(ref, path, root) for path in ("reports/train.json", str(COMPOSED_CONFIG)))
    if train is None or config is None:
        return None
    return find_runs(store, RunIdentity.of(str(json.loads(train).get("training_key")), config.decode()))


def call_store(track: TrackSettings, action: Callable[[Store], Any], consequence: str) -> Any:
    """Return what `action` returns; if the store does not answer, print a line and return None."""
    try:
        store = open_store(track)
        with translate_errors(store.uri):
            return action(store)
    except StoreUnavailable as error:
        print(f"MLflow: {error}. The sweep's run is incomplete. {consequence}", flush=True)
        return None
