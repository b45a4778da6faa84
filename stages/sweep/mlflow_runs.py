"""The sweep in MLflow: a run of its own, which the runs of its points are nested under."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.git import blob, experiment_ref
from stages.common.stage import COMPOSED_CONFIG
from stages.sweep.point import Result
from stages.sweep.spec import Plan
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
SEND = "`dvc exp apply {name}`, then `dvc repro -f -s track`, sends it."
COMMIT_TAG = "mlflow.source.git.commit"


def open_run(track: TrackSettings, plan: Plan) -> str:
    """The id of the sweep's run, made where it is missing; empty where the store does not answer.

    It also makes a sqlite file's tables, for which points that begin at the same time would race.
    """

    def opened(store: Store) -> str:
        run_id = the_run(store, plan)
        store.client.update_run(run_id, status="RUNNING")
        return run_id

    return sent(track, opened, "The runs of its points stand alone") or ""


def close_run(track: TrackSettings, plan: Plan, results: Sequence[Result], report: Path) -> None:
    """Nest the points' runs under the sweep's, and give it its best point and its report.

    A run that is under another sweep is taken over: MLflow knows one parent.
    """

    def closed(store: Store) -> bool:
        run_id = the_run(store, plan)
        for result in results:
            children = runs_of(store, plan, result)
            if children == []:  # made while the store did not answer, or for another store
                print(f"MLflow: no run of {result.name}. {SEND.format(name=result.name)}", flush=True)
            for child in children or []:
                nested = {PARENT_TAG: run_id, SWEEP_TAG: plan.name, EXPERIMENT_TAG: result.name}
                for name, value in nested.items():
                    store.client.set_tag(child.info.run_id, name, value)
        for key, value in summary(plan, results).items():
            store.client.set_tag(run_id, key, value)
        if best := best_of(plan, results):
            store.client.log_metric(run_id, f"best/{plan.objective.split(':')[1]}", best.objective)
        scored = sum(r.objective is not None for r in results)
        store.client.log_metric(run_id, "points", scored)
        if report.is_dir():
            store.client.log_artifacts(run_id, str(report))
        failed = any(r.status == "failed" for r in results)
        store.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        return True

    sent(track, closed, "The same command completes it")


def summary(plan: Plan, results: Sequence[Result]) -> Mapping[str, str]:
    """Tags of the sweep's run: what MLflow shows as its description."""
    best = best_of(plan, results)
    told = f"Best: {best.name}, {plan.objective} {best.objective:.4g}. " if best else ""
    failed = sum(r.status == "failed" for r in results)
    ended = f", {failed} of them failed" if failed else ""
    return {"mlflow.note.content": f"{told}{len(results)} points{ended}. Table: artifact index.html"}


def best_of(plan: Plan, results: Sequence[Result]) -> Result | None:
    """The point with the best objective, of equal ones the first; None where none has one."""
    sign = -1 if plan.direction == "minimize" else 1
    scored = [result for result in results if result.objective is not None]
    return max(scored, key=lambda result: sign * (result.objective or 0.0), default=None)


def the_run(store: Store, plan: Plan) -> str:
    """The id of the sweep's own run, not a point's; made where it is missing."""
    wanted = f"tags.`{SWEEP_TAG}` = '{plan.name}' and tags.`{COMMIT_TAG}` = '{plan.commit}'"
    found = store.client.search_runs([store.experiment_id], wanted, order_by=["attributes.start_time ASC"])
    run = next((run for run in found if EXPERIMENT_TAG not in run.data.tags), None)
    if run is None:
        tags = {SWEEP_TAG: plan.name, COMMIT_TAG: plan.commit}
        run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"sweep {plan.name}")
    return str(run.info.run_id)


def runs_of(store: Store, plan: Plan, result: Result) -> Sequence[Any] | None:
    """The runs of the point's model, whoever made them: one that was there already, or came from the cache, made none.

    None for a point without a model.
    """
    if result.objective is None:
        return None
    ref, root = experiment_ref(plan.commit, result.name), Path(plan.root)
    train, config = (blob(ref, path, root) for path in ("reports/train.json", str(COMPOSED_CONFIG)))
    if train is None or config is None:
        return None
    key = str(json.loads(train).get("training_key"))
    return find_runs(store, RunIdentity(key, hashlib.sha256(config).hexdigest()))


def sent(track: TrackSettings, send: Callable[[Store], Any], otherwise: str) -> Any:
    """What `send` returns; None, and a line on the terminal, where the store does not answer."""
    try:
        store = open_store(track)
        with translate_errors(store.uri):
            return send(store)
    except StoreUnavailable as error:
        print(f"MLflow: {error}: the sweep's run is not complete. {otherwise}.", flush=True)
        return None
