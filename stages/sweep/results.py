"""What the points of a sweep hold, read from their DVC experiments and DVC's cache, never from a working tree."""

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

from stages.common.curve import CurveCells
from stages.common.errors import UserError
from stages.common.files import read_json, read_jsonl
from stages.common.git import git, ref_exists

METRICS = re.compile(r"reports/((?:evaluate/)?[^/]+)\.json")
CURVE, LOCK = "reports/train.csv", "dvc.lock"
JUDGED = "reports/evaluate/tuned"  # DVC's out with the judged samples of the tuned model
NO_OBJECTIVE = ("failed", "pruned")  # what such a status begins with
Metrics = dict[
    str, dict[str, Any]
]  # by the file's path below reports/ without its ending: train, evaluate/tuned
Sample = dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """A point as the sweep ran it."""

    name: str  # of its DVC experiment
    overrides: Mapping[str, str]  # swept keys and their values: train.lora.rank, or a group, as base
    status: str  # ran N stages | from the cache | there already | pruned at step N | failed
    objective: float | None
    seconds: float  # from its start to its end, in this sweep
    error: str = ""
    ref: str | None = None  # git ref of the experiment; None: failed or pruned


@dataclass(frozen=True)
class Point:
    """A point and what its experiment holds; all of that is empty where there is no experiment."""

    tried: Tried
    commit: str | None = None  # of the experiment
    metrics: Metrics = field(default_factory=dict)
    curve: list[CurveCells] = field(default_factory=list)
    runs: dict[str, str] = field(
        default_factory=dict
    )  # stage -> hash of its entry in dvc.lock: equal for one and the same run
    samples: list[Sample] | None = None  # judged, of the tuned model: `task_id` and `verdict`
    unread: str = ""  # why there are no samples

    @property
    def value(self) -> float | None:
        """The objective, where the point was finished."""
        value = None if self.tried.status.startswith(NO_OBJECTIVE) else self.tried.objective
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class SweepEvidence:
    name: str
    commit: str  # what all points start from
    objective: str  # metrics file, colon, dotted key
    direction: str  # maximize | minimize
    points: list[Point]  # in the sweep's order
    before: dict[str, str]  # `runs` of the commit itself

    @property
    def keys(self) -> list[str]:
        """The swept keys, in the order in which they are first met."""
        return list(dict.fromkeys(key for point in self.points for key in point.tried.overrides))

    @property
    def finished(self) -> list[Point]:
        return [point for point in self.points if point.value is not None]


def gather(
    root: Path,
    cache: Path,
    name: str,
    commit: str,
    objective: str,
    direction: str,
    tried: Sequence[Tried],
) -> SweepEvidence:
    """Read the experiments of all points.

    Args:
        root: the git repository that holds the experiments.
        cache: DVC's cache folder, the one with `files/md5` in it.
        name: the sweep's.
        commit: what all points start from.
        objective: metrics file, colon, dotted key.
        direction: maximize | minimize.
        tried: the points in the sweep's order.

    Raises:
        UserError: a file of an experiment is damaged; names it.
    """
    metrics_file = objective.split(":")[0]
    points = [read_point(root, cache, point, metrics_file) for point in tried]
    before = runs(read_lock(root, commit)) if LOCK in files(root, commit) else {}
    return SweepEvidence(name, commit, objective, direction, points, before)


def read_point(root: Path, cache: Path, tried: Tried, metrics_file: str) -> Point:
    """A point with what its experiment holds; without it where the experiment was removed meanwhile."""
    if tried.ref is None or not ref_exists(root, tried.ref):
        return Point(tried, unread="it has no experiment")
    there = files(root, tried.ref)
    lock = read_lock(root, tried.ref) if LOCK in there else {}
    samples, unread = judged(cache, lock)
    return Point(
        tried=tried,
        commit=git("rev-parse", f"{tried.ref}^{{commit}}", folder=root),
        metrics={stem(path): document(root, tried.ref, path) for path in wanted(there, metrics_file)},
        curve=curve(text(root, tried.ref, CURVE), tried.ref) if CURVE in there else [],
        runs=runs(lock),
        samples=samples,
        unread=unread,
    )


def files(root: Path, ref: str) -> list[str]:
    """Paths of the reports and of dvc.lock in a commit."""
    listed = git("ls-tree", "-r", "-z", "--name-only", ref, "--", "reports", LOCK, folder=root)
    return [path for path in listed.split("\0") if path]


def wanted(paths: Sequence[str], metrics_file: str) -> list[str]:
    return [path for path in paths if METRICS.fullmatch(path) or path == metrics_file]


def stem(path: str) -> str:
    return path.removeprefix("reports/").removesuffix(".json")


def text(root: Path, ref: str, path: str) -> str:
    return git("show", f"{ref}:{path}", folder=root)


def document(root: Path, ref: str, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text(root, ref, path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} of {ref}: not JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def curve(csv_text: str, ref: str) -> list[CurveCells]:
    """Rows of train.csv as numbers; an empty cell is None."""
    try:
        return [
            {key: float(cell) if cell else None for key, cell in row.items()}
            for row in csv.DictReader(io.StringIO(csv_text))
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{CURVE} of {ref}: not a curve ({error})") from None


def read_lock(root: Path, ref: str) -> dict[str, Any]:
    """The stages of a commit's dvc.lock."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast: a sweep has many of these
    try:
        return (yaml.load(text(root, ref, LOCK), loader) or {}).get("stages", {})
    except yaml.YAMLError as error:
        raise UserError(f"{LOCK} of {ref}: not YAML ({error})") from None


def runs(lock: Mapping[str, Any]) -> dict[str, str]:
    """A hash for each stage's run. Its metrics, which hold the seconds, are in it: a second run has another."""
    return {
        stage: hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
        for stage, entry in lock.items()
    }


def judged(cache: Path, lock: Mapping[str, Any]) -> tuple[list[Sample] | None, str]:
    """The judged samples of the tuned model out of DVC's cache; None and the reason where they are not there."""
    outs = [out for entry in lock.values() for out in entry.get("outs", []) if out.get("path") == JUDGED]
    if not outs:
        return None, "its pipeline keeps no judged samples"
    try:
        listed = {part["relpath"]: part["md5"] for part in read_json(stored(cache, outs[0]["md5"]))}
        samples = read_jsonl(stored(cache, listed["samples.jsonl"]))
        return [{key: sample[key] for key in ("task_id", "verdict")} for sample in samples], ""
    except (UserError, KeyError, TypeError):
        return None, "its judged samples are not in DVC's cache"


def stored(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]
