"""Send a training's curve to MLflow while it runs: the process that `stages.common.tracking.LiveRun` starts.

It reads JSON lines from standard input, `{"step", "time", "values"}` for each row of the curve and
`{"status"}` at the end. If a server does not answer, one line says so; rows are kept and sent when it answers
again. What it has not received when the training ends is left to the `track` stage.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any

from stages.track.gauges import Gauges
from stages.track.runs import RunIdentity, complete_params, create_run, find_runs
from stages.track.settings import TrackSettings
from stages.track.store import (
    METRICS_PER_CALL,
    MetricPoint,
    StoreUnavailable,
    curve_history,
    log_points,
    open_store,
    row_points,
    shown_uri,
    store_uri,
    translate_errors,
)

PAUSES = (5.0, 60.0)  # seconds before trying a store again that did not answer: at first, and at most
# Niceness: importing MLflow takes seconds of processor time, so use a core only while the training leaves it
# idle. Set another on a machine that other programs keep busy, where this process would never run.
POLITE = int(os.environ.get("CODETUNE_LIVE_NICE", "19"))


class MessageReader:
    """Reads messages from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest, self.ended = descriptor, b"", False

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have arrived; wait up to `seconds` for one."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        chunk = os.read(self._descriptor, 1 << 16)
        self.ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]


class CurveSender:
    """Keeps points until the store accepts them. Raises UserError if it refuses, never StoreUnavailable."""

    def __init__(self, settings: TrackSettings, training_key: str) -> None:
        self._settings, self._identity = settings, RunIdentity.of(training_key)
        self._uri = store_uri(settings)
        self._store: Any = None  # a Store, once it has answered
        self._run: Any = None
        self._known: set[tuple[str, int]] = set()  # points of an earlier attempt that is resumed
        self._pending: list[MetricPoint] = []
        self._pause = self._again = 0.0
        self.away = False

    def wait(self) -> float:
        """Return the seconds until the store may be tried again."""
        return max(0.0, self._again - time.monotonic()) if self.away else PAUSES[1]

    def add(self, points: list[MetricPoint]) -> None:
        self._pending += points

    def add_gauges(self, values: dict[str, float]) -> None:
        """Add system metrics of now, with seconds since the run began as step; dropped without a run."""
        if self._run is not None and not self.away:
            now = int(time.time() * 1000)
            step = (now - self._run.info.start_time) // 1000
            self._pending += [MetricPoint(name, value, step, now) for name, value in values.items()]

    def send(self) -> None:
        """Send what is pending, unless the store failed to answer a moment ago."""
        if self.away and self.wait():
            return
        try:
            with translate_errors(self._uri):
                self._open()
                while self._pending:
                    part = self._pending[:METRICS_PER_CALL]
                    points = [p for p in part if (p.name, p.step) not in self._known]
                    log_points(self._store, self._run.info.run_id, points)
                    del self._pending[: len(part)]
        except StoreUnavailable as error:
            self._leave(error)
        else:
            if self.away:
                say(f"MLflow: {shown_uri(self._uri)} answers again; the pending curve was sent.")
            self.away, self._pause = False, 0.0

    def close(self, status: str) -> None:
        """Send the rest and end the run; do not wait again for a store that just failed to answer."""
        if not self.away:
            self.send()
        if self.away or self._run is None:
            return
        try:
            with translate_errors(self._uri):
                self._store.client.set_terminated(self._run.info.run_id, status)
        except StoreUnavailable as error:
            self._leave(error)

    def _open(self) -> None:
        """Find or create the run, and mark it as running."""
        if self._run is not None:
            return
        self._store = open_store(self._settings)
        runs = find_runs(self._store, self._identity)
        run = complete_params(self._store, runs[0]) if runs else create_run(self._store, self._identity)
        if runs:
            self._store.client.update_run(run.info.run_id, status="RUNNING")
        self._known = {
            (key, step) for key, steps in curve_history(self._store, run).items() for step in steps
        }
        self._run = run

    def _leave(self, error: StoreUnavailable) -> None:
        if not self.away:
            say(f"MLflow: {error}; the live curve is sent when it does, or else by the track stage.")
        self.away, self._pause = True, min(self._pause * 2 or PAUSES[0], PAUSES[1])
        self._again = time.monotonic() + self._pause


def send_live_curve(
    settings: TrackSettings, training_key: str, descriptor: int, training: int | None = None
) -> None:
    """Send rows from a file descriptor until it closes, and system metrics of the machine and of `training`.

    If the training dies without sending a status, its run ends as KILLED.
    """
    sender, lines, status = CurveSender(settings, training_key), MessageReader(descriptor), "KILLED"
    sender.send()
    every = settings.system_seconds
    gauges = Gauges(training) if every and training else None
    due = time.monotonic() + every
    while not lines.ended:
        pause = min(sender.wait(), max(0.0, due - time.monotonic())) if gauges else sender.wait()
        for message in lines.read(pause):
            status = message.get("status", status)
            if "values" in message:
                sender.add(row_points(message["values"], int(message["step"]), message.get("time")))
        if gauges and time.monotonic() >= due:
            sender.add_gauges(gauges.read())
            due = time.monotonic() + every
        sender.send()
    sender.close(status)


def yield_cores() -> None:
    """Leave the processor to the training, which on a CPU needs every core."""
    os.nice(POLITE)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write(str(POLITE))  # some kernels weigh a session of its own as a group


def say(text: str) -> None:
    """Print on a line of its own, below the progress bar of a terminal."""
    sys.stderr.write(("\n" if sys.stderr.isatty() else "") + text + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield_cores()
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"
    )  # this process retries by itself, without waiting
    try:
        send_live_curve(
            TrackSettings(**json.loads(sys.argv[1])), sys.argv[2], sys.stdin.fileno(), os.getppid()
        )
    except Exception as error:
        say(f"MLflow: the live curve is not sent ({error}); the track stage will send it.")
        sys.exit(1)
