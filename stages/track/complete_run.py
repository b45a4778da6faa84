"""Bringing the run in MLflow to what the files say, part by part; a part that is there is not sent again."""

import json
from typing import Any

from stages.common.curve import MEASURED
from stages.track.run_contents import RunContents
from stages.track.store import (
    CURVE_PREFIX,
    MetricPoint,
    Store,
    complete_params,
    create_run,
    curve_history,
    find_runs,
    log_points,
)


def find_or_create_run(store: Store, facts: RunContents) -> Any:
    """The identity's run, with its parameters; runs that hold another curve, and second ones, are deleted."""
    runs = find_runs(store, facts.identity)
    kept = next((run for run in runs if curve_matches(store, run, facts)), None)
    for run in runs:
        if run is not kept:
            store.client.delete_run(run.info.run_id)
            print(
                f"MLflow: run {run.info.run_id} is deleted: it is a second one, or its curve is not reports/train.csv."
            )
    return complete_params(store, kept) if kept else create_run(store, facts.identity)


def curve_matches(store: Store, run: Any, facts: RunContents) -> bool:
    """Whether each curve point of the run is one of the file, and no step holds two.

    Of what was measured, not computed, the file need only have that point: a training that was killed did some steps
    twice, and the run may hold the speed of the first time.
    """
    curve = {(p.name, p.step): p.value for p in facts.curve}
    return all(
        len(values) == 1
        and (values[0] == curve.get((key, step)) or (key in MEASURED_POINTS and (key, step) in curve))
        for key, steps in curve_history(store, run).items()
        for step, values in steps.items()
    )


# Measured again if a killed and resumed training repeats a step
MEASURED_POINTS = {CURVE_PREFIX + name for name in MEASURED}


def complete_curve(store: Store, run: Any, facts: RunContents) -> None:
    there = {(key, step) for key, steps in curve_history(store, run).items() for step in steps}
    log_points(store, run.info.run_id, [p for p in facts.curve if (p.name, p.step) not in there])


def complete_finals(store: Store, run: Any, facts: RunContents) -> None:
    changed = {k: v for k, v in facts.finals.items() if run.data.metrics.get(k) != v}
    log_points(store, run.info.run_id, [MetricPoint(key, value, 0) for key, value in changed.items()])


def complete_datasets(store: Store, run: Any, facts: RunContents) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(name=path, digest=digest, source_type="local", source=json.dumps({"uri": path})),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for path, digest, context in facts.datasets
    ]
    store.client.log_inputs(run.info.run_id, datasets=inputs)


def complete_tags(store: Store, run: Any, facts: RunContents) -> None:
    from mlflow.entities import RunTag

    changed = [RunTag(k, v) for k, v in facts.tags.items() if run.data.tags.get(k) != v]
    store.client.log_batch(run.info.run_id, tags=changed)


def complete_artifacts(store: Store, run: Any, facts: RunContents) -> None:
    for path in facts.artifacts:
        store.client.log_artifact(
            run.info.run_id, str(path), path.parent.as_posix().removeprefix("reports").strip("/")
        )


# In the order in which they are sent; the names are what a user reads when a server goes away in between.
RUN_PARTS = {
    "curve": complete_curve,
    "figures": complete_finals,
    "data": complete_datasets,
    "tags": complete_tags,
    "artifacts": complete_artifacts,
}
