"""One point of a sweep: a clone of the pinned commit, `dvc exp run` in it, the experiment pushed back."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import write_json
from stages.common.git import dvc, experiment_ref, git, ref_exists
from stages.config.compose import validate_config
from stages.sweep.clone import POINT, Pruned, clone_of, end_processes
from stages.sweep.spec import Plan, dvc_params, swept
from stages.sweep.study import Watcher
from stages.track.run_contents import is_number
from stages.track.store import SWEEP_RUN_VARIABLE, SWEEP_VARIABLE

WATCH_SECONDS = 1.0
LOG_LINES = 12
REPORT = "reports/report.json"  # the comparison of tuned and base
NEVER_CACHED = {"config", "track"}  # seconds; they run where all else comes back from DVC's run cache


@dataclass
class Result:
    """How a point ended; a JSON file beside its log, from which the parent makes its table."""

    number: int
    name: str
    status: str  # ran N stages | from the cache | there already | pruned at step N | failed
    objective: float | None
    seconds: float
    error: str = ""
    p: float | None = None  # of tuned against base; None: the pipeline made no comparison
    difference: float | None = None  # in pass@1, tuned less base
    weak: bool = False  # judged at isolation level C
    overrides: dict[str, str] = field(default_factory=dict)  # what tells the point from the others


def run_point(
    plan: Plan,
    number: int,
    name: str,
    overrides: Sequence[str],
    config: Any,
    watch: Watcher | None = None,
) -> Result:
    """Make the experiment `name`, or find it made; never raises for what goes wrong inside of it.

    Whoever else makes the same point (a job of a killed sweep that a scheduler still runs) is waited for.
    """
    started = time.perf_counter()
    ref = experiment_ref(plan.commit, name)
    result = Result(number, name, "failed", None, 0, overrides=swept(plan, overrides))
    try:
        validate_config(config)
        with held(plan.folder / f"{name}.lock"):
            if ref_exists(Path(plan.root), ref):
                result.status, made = "there already", committed(plan, ref)
            else:
                result.status, made = run_in_clone(plan, name, overrides, watch)
        value = objective(made[metrics_file(plan)], plan)
        result = replace(result, objective=value, **compared(made.get(REPORT)))
    except Pruned as why:
        result.status = f"pruned {why}"
    except UserError as error:
        result.status, result.error = "failed", str(error)
    except Exception as error:
        result.status, result.error = "failed", f"unexpected {type(error).__name__}: {error}"
    result.seconds = round(time.perf_counter() - started, 1)
    write_json(plan.folder / f"{name}.json", asdict(result))
    return result


@contextmanager
def held(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def committed(plan: Plan, ref: str) -> dict[str, str]:
    """Texts of the metrics files in an experiment that is there."""
    root = Path(plan.root)
    there = git("ls-tree", "-r", "--name-only", ref, "reports", folder=root).splitlines()
    wanted = {metrics_file(plan), *({REPORT} & set(there))}
    return {path: git("show", f"{ref}:{path}", folder=root) for path in wanted}


def compared(text: str | None) -> dict[str, Any]:
    """What reports/report.json says of tuned against base, as fields of a Result; nothing without the file."""
    if text is None:
        return {}
    report = json.loads(text)
    return {
        "p": report.get("p"),
        "difference": report.get("difference"),
        "weak": report.get("weak_sandbox", False),
    }


def run_in_clone(
    plan: Plan, name: str, overrides: Sequence[str], watch: Watcher | None
) -> tuple[str, dict[str, str]]:
    """Status and metrics files' texts of a point that is made now; its clone is gone afterwards, its log stays."""
    log = plan.folder / f"{name}.log"
    try:
        with clone_of(plan, name) as clone:
            params = dvc_params(overrides, clone / "params.yaml")
            with log.open("wb") as file:
                call(plan, clone, file, watch, "exp", "run", "--name", name, *params)
            if watch:
                watch.end(clone)
            if ref_exists(clone, ref := experiment_ref(plan.commit, name)):
                git("push", "--quiet", "origin", f"{ref}:{ref}", folder=clone)
            ran = stages_run(log.read_text("utf-8", "replace"))
            status = f"ran {len(ran)} stages" if set(ran) - NEVER_CACHED else "from the cache"
            wanted = [metrics_file(plan), *([REPORT] if (clone / REPORT).exists() else [])]
            return status, {path: (clone / path).read_text("utf-8") for path in wanted}
    except FileNotFoundError as error:
        raise UserError(f"the point made no {error.filename}") from None


def call(plan: Plan, clone: Path, log: Any, watch: Watcher | None, *arguments: str) -> None:
    """Run DVC in a clone, everything it prints going to the log.

    Raises:
        UserError: DVC ends with an error; gives the log's last lines.
        Pruned: `watch` said that the point is not worth its time.
    """
    log.write(f"$ dvc {' '.join(arguments)}\n".encode())
    log.flush()
    process = subprocess.Popen(
        dvc(*arguments),
        cwd=clone,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment(plan, clone),
    )
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(WATCH_SECONDS if watch else None)
                break
            if watch and (why := watch(clone)):
                raise Pruned(why)
    finally:
        if process.poll() != 0:  # a DVC that was killed leaves its stage at work
            end_processes(clone)
            process.wait()
    if status:
        lines = Path(log.name).read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
        raise UserError("\n".join([f"`dvc {' '.join(arguments[:2])}` ended with status {status}:", *lines]))


def environment(plan: Plan, clone: Path) -> dict[str, str]:
    """This process's environment, with its interpreter first and the repository's MLflow store."""
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["MLFLOW_TRACKING_URI"] = plan.tracking_uri
    environment |= {SWEEP_VARIABLE: plan.name, SWEEP_RUN_VARIABLE: plan.run, POINT: str(clone)}
    return environment


def stages_run(log: str) -> list[str]:
    """Names of the stages that DVC ran, in order; those restored from the cache are not among them."""
    return re.findall(r"^Running stage '([^']+)'", log, flags=re.MULTILINE)


def metrics_file(plan: Plan) -> str:
    return plan.objective.split(":")[0]


def objective(text: str, plan: Plan) -> float:
    """The objective out of a metrics file's text.

    Raises:
        UserError: the key is missing or no number.
    """
    file, key = plan.objective.split(":")
    value = json.loads(text)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not is_number(value):
        raise UserError(f"sweep.objective: '{key}' in {file} is {value!r}: expected a number")
    return float(value)
