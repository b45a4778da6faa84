"""The results of a sweep's points, read from DVC experiments and DVC's cache, never from a working tree."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stages.common.comparison import SampleRow
from stages.common.core.errors import UserError
from stages.common.core.files import read_json, read_jsonl
from stages.common.curve import CurveCells
from stages.common.git import git, ref_exists

METRICS_FILE = re.compile(r"reports/((?:evaluate/)?[^/]+)\.json")
CURVE_CSV, DVC_LOCK = "reports/train.csv", "dvc.lock"
SAMPLES_OUT = "reports/evaluate/tuned"  # DVC's out with the judged samples of the tuned model
UNFINISHED = ("failed", "pruned")  # a status that starts so has no objective
# By the file's path below reports/ without its suffix: train, evaluate/tuned
Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Attempt:
    """A point as the sweep ran it."""

    # Of its DVC experiment
    name: str
    # Swept keys and their values: train.lora.rank, or a group such as base
    overrides: Mapping[str, str]
    # ran N stages | from the cache | already done | pruned at step N | failed
    status: str
    objective: float | None
    # From its start to its end, in this sweep
    seconds: float
    error: str = ""
    # Git ref of the experiment; None: failed or pruned
    ref: str | None = None


@dataclass(frozen=True)
class PointResult:
    """A point and the contents of its experiment, all empty if there is none."""

    attempt: Attempt
    # Of the experiment
    commit: str | None = None
    metrics: Metrics = field(default_factory=dict)
    curve: list[CurveCells] = field(default_factory=list)
    # Stage -> hash of its entry in dvc.lock; two points with the same hash share one run of the stage
    stage_runs: dict[str, str] = field(default_factory=dict)
    # Judged samples of the tuned model: `task_id` and `verdict`
    samples: list[SampleRow] | None = None
    # Why there are no samples
    no_samples: str = ""

    @property
    def value(self) -> float | None:
        """The objective; None if the point did not finish."""
        value = None if self.attempt.status.startswith(UNFINISHED) else self.attempt.objective
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class SweepResults:
    name: str
    # The commit that the experiments stand on
    commit: str
    # Metrics file, colon, dotted key
    objective: str
    # maximize | minimize
    direction: str
    # In the sweep's order
    points: list[PointResult]
    # `stage_runs` of the files that all points start from
    start_runs: dict[str, str]

    @property
    def keys(self) -> list[str]:
        """The swept keys, in order of first appearance."""
        return list(dict.fromkeys(key for point in self.points for key in point.attempt.overrides))

    @property
    def finished(self) -> list[PointResult]:
        return [point for point in self.points if point.value is not None]


def collect_results(
    root: Path,
    cache: Path,
    name: str,
    commit: str,
    tree: str,
    objective: str,
    direction: str,
    attempts: Sequence[Attempt],
) -> SweepResults:
    """Read the experiments of all points.

    Args:
        root: the git repository that holds the experiments.
        cache: DVC's cache folder, the one with `files/md5` in it.
        name: the sweep's.
        commit: the commit that the experiments stand on.
        tree: git tree of the files that all points start from.
        objective: metrics file, colon, dotted key.
        direction: maximize | minimize.
        attempts: the points in the sweep's order.

    Raises:
        UserError: a file of an experiment is damaged; names it.
    """
    metrics_file = objective.split(":")[0]
    points = [read_point_result(root, cache, attempt, metrics_file) for attempt in attempts]
    start_runs = hash_stage_runs(read_dvc_lock(root, tree)) if DVC_LOCK in list_files(root, tree) else {}
    return SweepResults(name, commit, objective, direction, points, start_runs)


def read_point_result(root: Path, cache: Path, attempt: Attempt, metrics_file: str) -> PointResult:
    """Read a point's experiment; the result is empty if the experiment was removed in the meantime."""
    if attempt.ref is None or not ref_exists(root, attempt.ref):
        return PointResult(attempt, no_samples="it has no experiment")
    files = list_files(root, attempt.ref)
    lock = read_dvc_lock(root, attempt.ref) if DVC_LOCK in files else {}
    samples, no_samples = read_judged_samples(cache, lock)
    curve = (
        parse_curve(read_committed(root, attempt.ref, CURVE_CSV), attempt.ref) if CURVE_CSV in files else []
    )
    return PointResult(
        attempt=attempt,
        commit=git("rev-parse", f"{attempt.ref}^{{commit}}", folder=root),
        metrics={
            metrics_name(path): read_committed_json(root, attempt.ref, path)
            for path in select_metrics(files, metrics_file)
        },
        curve=curve,
        stage_runs=hash_stage_runs(lock),
        samples=samples,
        no_samples=no_samples,
    )


def list_files(root: Path, ref: str) -> list[str]:
    """Return the paths of reports and dvc.lock in a commit."""
    listing = git("ls-tree", "-r", "-z", "--name-only", ref, "--", "reports", DVC_LOCK, folder=root)
    return [path for path in listing.split("\0") if path]


def select_metrics(paths: Sequence[str], metrics_file: str) -> list[str]:
    return [path for path in paths if METRICS_FILE.fullmatch(path) or path == metrics_file]


def metrics_name(path: str) -> str:
    return path.removeprefix("reports/").removesuffix(".json")


def read_committed(root: Path, ref: str, path: str) -> str:
    return git("show", f"{ref}:{path}", folder=root)


def read_committed_json(root: Path, ref: str, path: str) -> dict[str, Any]:
    try:
        value = json.loads(read_committed(root, ref, path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} of {ref}: not JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def parse_curve(csv_text: str, ref: str) -> list[CurveCells]:
    """Parse the rows of train.csv as numbers; an empty cell becomes None."""
    try:
        return [
            {key: float(cell) if cell else None for key, cell in row.items()}
            for row in csv.DictReader(io.StringIO(csv_text))
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{CURVE_CSV} of {ref}: not a training curve ({error})") from None


def read_dvc_lock(root: Path, ref: str) -> dict[str, Any]:
    """Return the stages of a commit's dvc.lock."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast: a sweep has many of these
    try:
        return (yaml.load(read_committed(root, ref, DVC_LOCK), loader) or {}).get("stages", {})
    except yaml.YAMLError as error:
        raise UserError(f"{DVC_LOCK} of {ref}: not YAML ({error})") from None


def hash_stage_runs(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return a hash of each stage's run. Its entry covers the metrics with their seconds: a rerun has another hash."""
    return {
        stage: hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
        for stage, entry in lock.items()
    }


def read_judged_samples(cache: Path, lock: Mapping[str, Any]) -> tuple[list[SampleRow] | None, str]:
    """Read the tuned model's judged samples from DVC's cache; None and the reason if they are missing."""
    outs = [out for entry in lock.values() for out in entry.get("outs", []) if out.get("path") == SAMPLES_OUT]
    if not outs:
        return None, "its pipeline keeps no judged samples"
    try:
        hashes = {part["relpath"]: part["md5"] for part in read_json(cache_path(cache, outs[0]["md5"]))}
        samples = read_jsonl(cache_path(cache, hashes["samples.jsonl"]))
        return [{key: sample[key] for key in ("task_id", "verdict")} for sample in samples], ""
    except (UserError, KeyError, TypeError):
        return None, "its judged samples are not in DVC's cache"


def cache_path(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]
