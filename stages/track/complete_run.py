"""Bring the run in MLflow up to date with the files, part by part; what it holds is not sent again."""

import json
from typing import Any

from stages.common.core.files import sha256_file
from stages.common.curve import MEASURED
from stages.track.run_contents import RunContents
from stages.track.runs import complete_params, create_run, find_runs
from stages.track.store import CURVE_PREFIX, MetricPoint, Store, curve_history, log_points

ARTIFACTS_TAG = "codetune.artifacts"
# Measured again if a killed and resumed training repeats a step
MEASURED_POINTS = {CURVE_PREFIX + name for name in MEASURED}


def find_or_create_run(store: Store, contents: RunContents) -> Any:
    """Return this clone's run of the identity, with its parameters; delete its duplicates and those with other curves.

    A run of another owner is never among them (`find_runs`).
    """
    runs = find_runs(store, contents.identity)
    kept = next((run for run in runs if curve_matches(store, run, contents)), None)
    for run in runs:
        if run is not kept:
            store.client.delete_run(run.info.run_id)
            print(
                f"MLflow: deleted run {run.info.run_id}: it is a duplicate, or its curve differs from "
                f"reports/train.csv."
            )
    return complete_params(store, kept) if kept else create_run(store, contents.identity)


def curve_matches(store: Store, run: Any, contents: RunContents) -> bool:
    """Whether each curve point of the run is in the file, and no step holds two points.

    The values of measured (not computed) metrics may differ: a killed and resumed training does some steps
    twice, and the run may hold the speed of the first time.
    """
    curve = {(point.name, point.step): point.value for point in contents.curve}
    steps_of_curve = {point.step for point in contents.curve if point.name.startswith(CURVE_PREFIX)}
    return all(
        len(values) == 1
        and (step in steps_of_curve if key in MEASURED_POINTS else values[0] == curve.get((key, step)))
        for key, steps in curve_history(store, run).items()
        for step, values in steps.items()
    )


def complete_curve(store: Store, run: Any, contents: RunContents) -> None:
    logged = {(key, step) for key, steps in curve_history(store, run).items() for step in steps}
    log_points(store, run.info.run_id, [p for p in contents.curve if (p.name, p.step) not in logged])


def complete_final_metrics(store: Store, run: Any, contents: RunContents) -> None:
    changed = {k: v for k, v in contents.final_metrics.items() if run.data.metrics.get(k) != v}
    log_points(store, run.info.run_id, [MetricPoint(key, value, 0) for key, value in changed.items()])


def complete_datasets(store: Store, run: Any, contents: RunContents) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(name=path, digest=digest, source_type="local", source=json.dumps({"uri": path})),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for path, digest, context in contents.datasets
    ]
    store.client.log_inputs(run.info.run_id, datasets=inputs)


def complete_tags(store: Store, run: Any, contents: RunContents) -> None:
    from mlflow.entities import RunTag

    changed = [RunTag(k, v) for k, v in contents.tags.items() if run.data.tags.get(k) != v]
    store.client.log_batch(run.info.run_id, tags=changed)


def complete_artifacts(store: Store, run: Any, contents: RunContents) -> None:
    """Send the files that the run lacks or holds in another version; a tag keeps the digests of those it holds."""
    run_id, digests = run.info.run_id, json.loads(run.data.tags.get(ARTIFACTS_TAG, "{}"))
    folders = {
        path.parent.as_posix().removeprefix("reports").strip("/"): path.parent for path in contents.artifacts
    }
    for folder, place in folders.items():
        there = {item.path.rpartition("/")[2] for item in store.client.list_artifacts(run_id, folder or None)}
        for path in (path for path in contents.artifacts if path.parent == place):
            digest = sha256_file(path)[:16]
            if digests.get(str(path)) != digest or path.name not in there:
                store.client.log_artifact(run_id, str(path), folder)
                digests[str(path)] = digest
                store.client.set_tag(run_id, ARTIFACTS_TAG, json.dumps(digests))


# In sending order; a user reads these names if the server stops answering in between
RUN_PARTS = {
    "curve": complete_curve,
    "final metrics": complete_final_metrics,
    "data": complete_datasets,
    "tags": complete_tags,
    "artifacts": complete_artifacts,
}
