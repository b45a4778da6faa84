"""The live run of a training in MLflow: sent by a process of its own, so that it cannot slow or break the training."""

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

CLOSE_SECONDS = 30.0  # what `close` waits at most for what is still to be sent, if track.timeout is no longer


class LiveRun:
    """Sends values to MLflow while a model trains. No method raises or waits for the network, but for `close`.

        live = LiveRun.start(settings.track, training_key)
        live.log({"loss": 1.25, "learning_rate": 4e-4}, step=10)
        live.close()

    The run is identified by `training_key` and reports/config.yaml: a resumed training goes on in the run that is
    there, and skips steps that it holds. Give the names and the values of reports/train.csv as written there: the `track`
    stage compares both and replaces a run whose curve is another. What could not be sent, `track` sends later.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes] | None", close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self._process, self._close_seconds = process, close_seconds

    @classmethod
    def start(cls, track_settings: Any, training_key: str) -> "LiveRun":
        """Start the sending process; with `track.live` off, one that sends nothing.

        Args:
            track_settings: the section `track` (a dataclass of a floor above this one).
        """
        if not track_settings.live:
            return cls(None)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "stages.track.live", json.dumps(asdict(track_settings)), training_key],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C stops the training; the sender then closes the run
            )
        except OSError as error:
            print(f"the live curve is not sent to MLflow: {error}", file=sys.stderr)
            return cls(None)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return cls(process, max(CLOSE_SECONDS, 2 * track_settings.timeout))

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Send one row of the curve; values that are None or not finite are left out."""
        finite = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        if finite:
            self._write({"step": int(step), "time": int(time.time() * 1000), "values": finite})

    def close(self, status: str = "FINISHED") -> None:
        """End the run with an MLflow status (FINISHED, FAILED, KILLED), after sending what is left."""
        if self._process is None:
            return
        process, end = self._process, time.monotonic() + self._close_seconds
        assert process.stdin is not None
        select.select([], [process.stdin], [], self._close_seconds)  # the last word finds room
        self._write({"status": status})
        self._process = None
        process.stdin.close()
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(
                "MLflow is slow: the end of the curve was not sent; the track stage sends it.",
                file=sys.stderr,
            )

    def _write(self, message: dict[str, object]) -> None:
        """Write one line, or none: a pipe takes up to 4,096 bytes whole, and a full one drops it."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # full, or the sender has given up (and has said so)
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")
