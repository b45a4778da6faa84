"""Run one point of a sweep: clone the commit, run `dvc exp run` in the clone, push the experiment back."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import file_lock, read_metrics, write_json
from stages.common.git import dvc_command, experiment_ref, git, ref_exists
from stages.config.compose import validate_config
from stages.sweep.clone import POINT_VARIABLE, Pruned, end_point_processes, point_clone
from stages.sweep.spec import SweepSpec, dvc_params, swept_values
from stages.sweep.study import Watcher
from stages.track.run_contents import is_number
from stages.track.runs import SWEEP_RUN_VARIABLE, SWEEP_VARIABLE

WATCH_SECONDS = 1.0
LOG_LINES = 12
# Stages that take seconds, and run even if DVC's run cache restores all others
UNCOUNTED_STAGES = {"config", "track"}


@dataclass
class PointOutcome:
    """How a point ended. A JSON file beside its log, from which the parent process makes the table."""

    number: int
    name: str
    # ran N stages | from the cache | already done | pruned at step N | failed
    status: str
    objective: float | None
    seconds: float
    error: str = ""
    # What distinguishes the point from the others
    overrides: dict[str, str] = field(default_factory=dict)
    # train_seconds, tokens_per_second, peak_memory_mib of the training; empty if none ran for this point
    times: dict[str, float] = field(default_factory=dict)


def run_point(
    spec: SweepSpec,
    number: int,
    name: str,
    overrides: Sequence[str],
    config: Any,
    watch: Watcher | None = None,
) -> PointOutcome:
    """Make the experiment `name` unless it exists. Never raises: an error becomes the outcome.

    Waits for another process that makes the same point, such as a scheduler's job of a killed sweep.
    """
    started = time.perf_counter()
    ref = experiment_ref(spec.commit, name)
    outcome = PointOutcome(number, name, "failed", None, 0, overrides=swept_values(spec, overrides))
    try:
        validate_config(config)
        with file_lock(spec.folder / f"{name}.lock"):
            if ref_exists(root := Path(spec.root), ref):
                outcome.status, text = "already done", git("show", f"{ref}:{metrics_file(spec)}", folder=root)
            else:
                outcome.status, text, outcome.times = run_in_clone(spec, name, overrides, watch)
        outcome.objective = parse_objective(text, spec)
    except Pruned as reason:
        outcome.status = f"pruned {reason}"
    except UserError as error:
        outcome.status, outcome.error = "failed", str(error)
    except Exception as error:
        outcome.status, outcome.error = "failed", f"unexpected {type(error).__name__}: {error}"
    outcome.seconds = round(time.perf_counter() - started, 1)
    write_json(spec.folder / f"{name}.json", asdict(outcome))
    return outcome


def run_in_clone(
    spec: SweepSpec, name: str, overrides: Sequence[str], watch: Watcher | None
) -> tuple[str, str, dict[str, float]]:
    """Run a point; return its status, its metrics file as text and its times. Leaves the log, not the clone."""
    log = spec.folder / f"{name}.log"
    try:
        with point_clone(spec, name) as clone:
            params = dvc_params(overrides, clone / "params.yaml")
            with log.open("wb") as file:
                run_dvc(spec, clone, file, watch, "exp", "run", "--name", name, *params)
            if watch:
                watch.end(clone)
            if ref_exists(clone, ref := experiment_ref(spec.commit, name)):
                git("push", "--quiet", "origin", f"{ref}:{ref}", folder=clone)
            ran = parse_ran_stages(log.read_text("utf-8", "replace"))
            status = (
                f"ran {len(ran)} stage{'s' * (len(ran) > 1)}"
                if set(ran) - UNCOUNTED_STAGES
                else "from the cache"
            )
            return status, (clone / metrics_file(spec)).read_text("utf-8"), training_times(clone)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no such file. "
            "The pipeline has to write the metrics file that sweep.objective names."
        ) from None


def training_times(clone: Path) -> dict[str, float]:
    """Return what a training in this clone cost; empty if DVC's cache had it."""
    path = clone / "reports/train.json"
    train = read_metrics(path) if path.exists() else {}
    names = {
        "seconds": "train_seconds",
        "tokens_per_second": "tokens_per_second",
        "peak_memory_mib": "peak_memory_mib",
    }
    return {name: train[key] for key, name in names.items() if train.get(key)}


def run_dvc(spec: SweepSpec, clone: Path, log: Any, watch: Watcher | None, *arguments: str) -> None:
    """Run DVC in a clone and write all that it prints to the log.

    Raises:
        UserError: DVC failed; has the last lines of the log.
        Pruned: `watch` found the point not worth its time.
    """
    log.write(f"$ dvc {' '.join(arguments)}\n".encode())
    log.flush()
    process = subprocess.Popen(
        dvc_command(*arguments),
        cwd=clone,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=point_environment(spec, clone),
    )
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(WATCH_SECONDS if watch else None)
                break
            if watch and (reason := watch(clone)):
                raise Pruned(reason)
    finally:
        if process.poll() != 0:  # when DVC is killed, its stage keeps running
            end_point_processes(clone)
            process.wait()
    if status:
        lines = Path(log.name).read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
        raise UserError("\n".join([f"`dvc {' '.join(arguments[:2])}` failed with status {status}:", *lines]))


def point_environment(spec: SweepSpec, clone: Path) -> dict[str, str]:
    """Return this process's environment, with its interpreter first in PATH and the sweep's MLflow store."""
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["MLFLOW_TRACKING_URI"] = spec.tracking_uri
    environment |= {SWEEP_VARIABLE: spec.name, SWEEP_RUN_VARIABLE: spec.run_id, POINT_VARIABLE: str(clone)}
    return environment


def parse_ran_stages(log: str) -> list[str]:
    """Return the names of the stages that DVC ran, in order, without those restored from the cache."""
    return re.findall(r"^Running stage '([^']+)'", log, flags=re.MULTILINE)


def metrics_file(spec: SweepSpec) -> str:
    return spec.objective.split(":")[0]


def parse_objective(text: str, spec: SweepSpec) -> float:
    """Return the objective from the text of a metrics file.

    Raises:
        UserError: the key is missing or is not a number.
    """
    file, key = spec.objective.split(":")
    value = nested_value(json.loads(text), key)
    if not is_number(value):
        raise UserError(f"sweep.objective: '{key}' in {file} is {value!r}: expected a number")
    return float(value)


def nested_value(value: Any, key: str) -> Any:
    """Return the value of a dotted key; None if there is none."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
