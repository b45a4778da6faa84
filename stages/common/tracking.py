"""Send a training's curve to MLflow while it runs, from a separate process that cannot slow or break it."""

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

CLOSE_SECONDS = 30.0  # most that `close` waits for the rest to be sent; longer if track.timeout is


class LiveRun:
    """Sends values to MLflow while a model trains. No method raises; only `close` waits for the network.

        live = LiveRun.start(settings.track, training_key)
        live.log({"loss": 1.25, "learning_rate": 4e-4}, step=10)
        live.close()

    The run is identified by `training_key` and reports/config.yaml: a resumed training continues its existing
    run and skips steps that the run holds. Log names and values exactly as in reports/train.csv: the `track`
    stage compares both and replaces a run whose curve differs. It also sends later what could not be sent
    live.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes] | None", close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self._process, self._close_seconds = process, close_seconds

    @classmethod
    def start(cls, track_settings: Any, training_key: str) -> "LiveRun":
        """Start the sending process; if `track.live` is off, return a run that sends nothing.

        Args:
            track_settings: the section `track` (its class is defined in a stage above common).
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
        """Send one row of the curve, without values that are None or not finite."""
        finite = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        if finite:
            self._write({"step": int(step), "time": int(time.time() * 1000), "values": finite})

    def close(self, status: str = "FINISHED") -> None:
        """Send the rest, then end the run with an MLflow status (FINISHED, FAILED, KILLED)."""
        if self._process is None:
            return
        process, end = self._process, time.monotonic() + self._close_seconds
        assert process.stdin is not None
        select.select([], [process.stdin], [], self._close_seconds)  # wait for room for the last message
        self._write({"status": status})
        self._process = None
        process.stdin.close()
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(
                "MLflow is slow: the end of the curve was not sent; the track stage will send it.",
                file=sys.stderr,
            )

    def _write(self, message: dict[str, object]) -> None:
        """Write a whole line or none: a pipe takes up to 4,096 bytes at once; a full one drops the line."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # the pipe is full, or the sender gave up and said so
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")
