"""The view of the experiment that `make ui` links to: score, interval and what differs, of a hundred columns.

    python -m stages.track.view 5000    # print the link, for MLflow's UI on this port

The UI keeps a view as a tag of the experiment: a name, and its own state, deflated (MLflow 3.17). Its default table
shows no metric. A view that another version cannot read is an entry that does not open, nothing else.
"""

import base64
import json
import sqlite3
import sys
import zlib
from contextlib import closing

import yaml

from stages.common.core.stage import COMPOSED_CONFIG
from stages.track.settings import TrackSettings
from stages.track.store import Store, store_uri

VIEW_NAME = "results"
# The number counts up with the content: a view is written once, and what users change in it stays
VIEW_KEY = "codetune-results-2"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
# Column, and its width in pixels: the first few fit a small screen. What differs is in the runs' names
VIEW_COLUMNS = {
    "metrics.`tuned/pass_at_1`": 120,
    "metrics.`tuned/pass_at_1_low`": 145,
    "metrics.`tuned/pass_at_1_high`": 150,
    "metrics.`base/pass_at_1`": 120,
    "metrics.`comparison/p`": 110,
    "params.`train.lora.rank`": 110,
    "params.`train.learning_rate`": 140,
    "metrics.`trained/validation_loss_kept`": 205,
}


def add_view(store: Store) -> None:
    """Write the view into the experiment where it is not there yet."""
    if VIEW_TAG not in store.client.get_experiment(store.experiment_id).tags:
        store.client.set_experiment_tag(store.experiment_id, VIEW_TAG, saved_view())


def saved_view() -> str:
    """Return the tag's value; what the view does not set is the UI's default."""
    state = {
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
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    made = {"createdAt": 0, "updatedAt": 0}  # the UI sorts views by these: ours comes after a user's own
    return json.dumps({"name": VIEW_NAME, **made, "state": f"deflate;{packed}"})


def link_to_view(port: str) -> str:
    """Return where the UI on this port shows the experiment of the embedded store; its start page if it is empty."""
    given = yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8"))["track"] if COMPOSED_CONFIG.exists() else {}
    settings = TrackSettings(**given)
    file = store_uri(settings).removeprefix("sqlite:///")
    page = f"http://127.0.0.1:{port}/"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            query = "SELECT experiment_id FROM experiments WHERE name = ?"
            found = store.execute(query, [settings.experiment]).fetchone()
    except sqlite3.Error:
        found = None
    return f"{page}#/experiments/{found[0]}/runs?viewStateShareKey={VIEW_KEY}" if found else page


if __name__ == "__main__":
    print(f"\nRuns, scores and intervals: {link_to_view(sys.argv[1])}\nCtrl-C ends it.\n", flush=True)
