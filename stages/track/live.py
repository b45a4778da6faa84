"""Sends a training's curve to MLflow as it comes: the process that `stages.common.tracking.LiveRun` starts.

Reads JSON lines from its standard input, `{"step", "values"}` a row of the curve and `{"status"}` at the end. A
server that does not answer is said once, in one line; the rest of the input is then left to the `track` stage.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator

from stages.track.settings import TrackSettings
from stages.track.store import (
    CURVE,
    Identity,
    Store,
    complete_params,
    create_run,
    find_runs,
    history,
    log_points,
    open_store,
)


def batches(descriptor: int) -> Iterator[list[dict]]:
    """Yield the messages that have come in the meantime, as long as there are any."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield [json.loads(line) for line in lines]


def live_run(store: Store, identity: Identity) -> tuple[str, set[tuple[str, int]]]:
    """The identity's run, set running, and the points it holds: those of an earlier attempt that is resumed."""
    runs = find_runs(store, identity)
    run = complete_params(store, runs[0]) if runs else create_run(store, identity)
    if runs:
        store.client.update_run(run.info.run_id, status="RUNNING")
    return run.info.run_id, {(key, step) for key, steps in history(store, run).items() for step in steps}


def send(settings: TrackSettings, training_key: str, descriptor: int) -> None:
    """Send what comes in on a file descriptor until it ends. A training that dies without a last word leaves its run KILLED."""
    store = open_store(settings)
    run_id, known = live_run(store, Identity.of(training_key))
    status = "KILLED"
    for messages in batches(descriptor):
        status = messages[-1].get("status", status) if messages else status
        points = [
            (CURVE + key, float(value), int(message["step"]))
            for message in messages
            for key, value in message.get("values", {}).items()
        ]
        log_points(store, run_id, [p for p in points if (p[0], p[2]) not in known])
    store.client.set_terminated(run_id, status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        send(TrackSettings(**json.loads(sys.argv[1])), sys.argv[2], sys.stdin.fileno())
    except Exception as error:
        print(
            f"MLflow: the live curve is not sent ({error}); the track stage sends it later.", file=sys.stderr
        )
        sys.exit(1)
