"""The view of the experiment that MLflow's UI offers under Views: of a hundred columns and charts those that are looked at.

The UI keeps a view as a tag of the experiment: a name, and its own state, deflated (MLflow 3.17). One that another
version cannot read is an entry that does not open, nothing else.
"""

import base64
import json
import zlib
from typing import Any

from stages.track.store import BY_TOKENS_PREFIX, CURVE_PREFIX, Store

VIEW_NAME = "results"
# The number counts up with the content: a view is written once, and what users change in it stays.
VIEW_TAG = "mlflow.sharedViewState.codetune-results-1"
# Column, and its width in pixels: the first few fit a small screen
VIEW_COLUMNS = {
    "params.`train.lora.rank`": 110,
    "params.`train.learning_rate`": 140,
    "metrics.`tuned/pass_at_1`": 120,
    "metrics.`tuned/pass_at_1_low`": 145,
    "metrics.`tuned/pass_at_1_high`": 150,
    "metrics.`comparison/p`": 110,
    "metrics.`trained/validation_loss_kept`": 205,
    "metrics.`base/pass_at_1`": 120,
}
# Section, and its charts: curves over their steps, figures as one bar a run
CHART_SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "pass@1": {"BAR": ("tuned/pass_at_1", "tuned/pass_at_1_low", "tuned/pass_at_1_high")},
    "loss": {
        "LINE": tuple(
            p + loss for p in (CURVE_PREFIX, BY_TOKENS_PREFIX) for loss in ("loss", "validation_loss")
        )
    },
    "speed": {
        "LINE": (CURVE_PREFIX + "tokens_per_second", CURVE_PREFIX + "memory_mib"),
        "BAR": ("seconds/total",),
    },
}
# Sections that the UI makes for all other metrics: there, after the ones above, and closed
FOLDED_SECTIONS = (
    "tuned", "base", "comparison", "trained", "train", "merge", "clean", "pack", "fetch", "model", "seconds", "peak_memory_mib",
)  # fmt: skip


def add_view(store: Store) -> None:
    """Write the view into the experiment where it is not there yet."""
    if VIEW_TAG not in store.client.get_experiment(store.experiment_id).tags:
        store.client.set_experiment_tag(store.experiment_id, VIEW_TAG, saved_view())


def saved_view() -> str:
    """The tag's value."""
    state = base64.b64encode(zlib.compress(json.dumps(view_state()).encode())).decode()
    made = {"createdAt": 0, "updatedAt": 0}  # the UI sorts views by these: ours comes after a user's own
    return json.dumps({"name": VIEW_NAME, **made, "state": f"deflate;{state}"})


def view_state() -> dict[str, Any]:
    """The part of the UI's state that a view sets; the rest is the UI's default."""
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(VIEW_COLUMNS),
        "columnOrder": list(VIEW_COLUMNS),
        "columnWidths": VIEW_COLUMNS,
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name in CHART_SECTIONS, "isReordered": True, "deleted": False, "isGenerated": False}
            for name in [*CHART_SECTIONS, *FOLDED_SECTIONS]
        ],
        "compareRunCharts": [
            chart(section, kind, metric)
            for section, charts in CHART_SECTIONS.items()
            for kind, metrics in charts.items()
            for metric in metrics
        ],
    }  # fmt: skip


def chart(section: str, kind: str, metric: str) -> dict[str, Any]:
    common = {
        "uuid": metric,
        "type": kind,
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
    }
    if kind == "BAR":
        return common
    return {
        **common,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
