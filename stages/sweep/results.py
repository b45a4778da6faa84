"""The points of a sweep, gathered once from DVC experiments and DVC's cache: table, CSV, page and MLflow show these."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stages.common.comparison import (
    SIGNIFICANCE_LEVEL,
    ProblemKey,
    SampleRow,
    count_passed,
    group_by_problem,
    problem_key,
    whole_rates,
)
from stages.common.core.errors import UserError
from stages.common.core.files import read_json, read_jsonl
from stages.common.git import experiment_ref, git, read_blob, ref_exists
from stages.common.statistics import all_pairs_tests, holm_adjusted
from stages.sweep.point import PointOutcome, nested_value
from stages.sweep.spec import SweepSpec
from stages.track.run_contents import is_number

SAMPLES_OUT = "reports/evaluate/tuned"  # DVC's out with the judged samples of the tuned model
METRICS_FILES = ("train", "report", "evaluate/base", "evaluate/tuned")  # below reports/


@dataclass(frozen=True)
class Difference:
    """In pass@1, as a share: 0.01 is a percentage point."""

    value: float
    p: float
    # Adjusted for the number of such differences in the sweep
    p_holm: float

    @property
    def beyond_noise(self) -> bool:
        return self.p_holm < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class SweepPoint:
    """A point: how it ran, what its experiment holds, and how it compares with the base and the best point."""

    outcome: PointOutcome
    # Of its experiment; None: it has none
    commit: str | None = None
    # Metrics files, by their path below reports/ without the suffix
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Judged samples of the tuned model (`task_id` and `verdict`), or why there are none
    samples: list[SampleRow] | None = None
    left_out: str = ""
    # Tuned less base
    base: Difference | None = None
    # This point less the best one
    best: Difference | None = None
    is_best: bool = False

    @property
    def name(self) -> str:
        return self.outcome.name

    @property
    def value(self) -> float | None:
        """The objective; None if the point did not finish."""
        return self.outcome.objective

    @property
    def weak(self) -> bool:
        """Whether its samples were judged at level C, where a completion can reach what judges it."""
        level = (self.metrics.get("evaluate/tuned", {}).get("isolation") or {}).get("level")
        return level == "C" or bool(self.metrics.get("report", {}).get("weak_sandbox"))

    @property
    def benchmark(self) -> str | None:
        return self.metrics.get("evaluate/tuned", {}).get("benchmark")

    @property
    def by_benchmark(self) -> dict[str, float]:
        """The tuned model's pass@1 on each benchmark."""
        parts = self.metrics.get("evaluate/tuned", {}).get("benchmarks") or {}
        return {name: part["pass_at_1"] for name, part in parts.items() if "pass_at_1" in part}

    def interval(self, objective: str) -> tuple[float, float] | None:
        """Return the 95% interval that the metrics keep beside an objective, such as pass_at_1_low and _high."""
        low, high = (metric_value(self.metrics, objective + end) for end in ("_low", "_high"))
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class Sweep:
    """What was swept, and its points in the sweep's order."""

    spec: SweepSpec
    points: list[SweepPoint]

    @property
    def keys(self) -> list[str]:
        """The swept keys, in order of first appearance."""
        return list(dict.fromkeys(key for point in self.points for key in point.outcome.overrides))

    @cached_property
    def finished(self) -> list[SweepPoint]:
        return [point for point in self.points if point.value is not None]

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that any point was scored on, in order of first appearance; none where there is only one."""
        names = list(dict.fromkeys(name for point in self.finished for name in point.by_benchmark))
        return names if len(names) > 1 else []

    @property
    def best(self) -> SweepPoint | None:
        return next((point for point in self.points if point.is_best), None)

    @cached_property
    def base_value(self) -> tuple[float, tuple[float, float] | None] | None:
        """The base model's score and interval; None if it has none or the points have different bases."""
        objective = self.spec.objective.replace("reports/evaluate/tuned.json:", "reports/evaluate/base.json:")
        if objective == self.spec.objective:
            return None
        found = {(metric_value(p.metrics, objective), p.interval(objective)) for p in self.finished}
        value, ends = next(iter(found)) if len(found) == 1 else (None, None)
        return None if value is None else (value, ends)


def gather_sweep(spec: SweepSpec, outcomes: Sequence[PointOutcome]) -> Sweep:
    """Read the experiments of all points and compare them.

    Raises:
        UserError: a file of an experiment is damaged; names it.
    """
    points = [read_point(spec, outcome) for outcome in outcomes]
    best = best_point(points, spec.direction)
    bases = compare_with_base(points)
    others, left_out = compare_with_best(points, best)
    return Sweep(
        spec,
        [
            replace(
                point,
                base=bases.get(point.name),
                best=others.get(point.name),
                left_out=left_out.get(point.name, ""),
                is_best=point is best,
            )
            for point in points
        ],
    )


def read_point(spec: SweepSpec, outcome: PointOutcome) -> SweepPoint:
    """Read a point's experiment; the result is empty if the experiment was removed in the meantime."""
    root, ref = Path(spec.root), experiment_ref(spec.commit, outcome.name)
    if outcome.objective is None or not ref_exists(root, ref):
        return SweepPoint(outcome, left_out="it has no experiment")
    paths = {spec.objective.split(":")[0], *(f"reports/{name}.json" for name in METRICS_FILES)}
    metrics = {
        metrics_name(path): parse_metrics(text, path, ref)
        for path in paths
        if (text := read_blob(ref, path, root))
    }
    samples, reason = read_judged_samples(Path(spec.cache), read_blob(ref, "dvc.lock", root) or b"", ref)
    commit = git("rev-parse", f"{ref}^{{commit}}", folder=root)
    return SweepPoint(outcome, commit, metrics, samples, reason)


def metrics_name(path: str) -> str:
    return path.removeprefix("reports/").removesuffix(".json")


def parse_metrics(text: bytes, path: str, ref: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} of {ref}: not JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def read_judged_samples(cache: Path, lock: bytes, ref: str) -> tuple[list[SampleRow] | None, str]:
    """Read the tuned model's judged samples from DVC's cache; None and the reason if they are missing."""
    try:
        stages = (yaml.load(lock, yaml.CSafeLoader) or {}).get("stages", {})
    except yaml.YAMLError as error:
        raise UserError(f"dvc.lock of {ref}: not YAML ({error})") from None
    outs = [o for entry in stages.values() for o in entry.get("outs", []) if o.get("path") == SAMPLES_OUT]
    if not outs:
        return None, "its pipeline keeps no judged samples"
    try:
        hashes = {part["relpath"]: part["md5"] for part in read_json(cache_path(cache, outs[0]["md5"]))}
        samples = read_jsonl(cache_path(cache, hashes["samples.jsonl"]))
        return [
            {"benchmark": sample.get("benchmark", ""), **{key: sample[key] for key in ("task_id", "verdict")}}
            for sample in samples
        ], ""
    except (UserError, KeyError, TypeError):
        return None, "its judged samples are not in DVC's cache"


def cache_path(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def metric_value(metrics: Mapping[str, Any], objective: str) -> float | None:
    """Return the number that a metrics file, a colon and a dotted key name; None if there is none."""
    file, _, key = objective.partition(":")
    value = nested_value(metrics.get(metrics_name(file)), key)
    return float(value) if is_number(value) else None


def best_point(points: Sequence[SweepPoint], direction: str) -> SweepPoint | None:
    """Return the point with the best objective, the first of equals; None if no point finished."""
    sign = -1 if direction == "minimize" else 1
    finished = [point for point in points if point.value is not None]
    return max(finished, key=lambda point: sign * (point.value or 0), default=None)


def compare_with_base(points: Sequence[SweepPoint]) -> dict[str, Difference]:
    """Return tuned less base, from reports/report.json, by the point's name; p adjusted for the number of points."""
    reports = {point.name: point.metrics.get("report", {}) for point in points}
    found = {n: r for n, r in reports.items() if is_number(r.get("p")) and is_number(r.get("difference"))}
    adjusted = holm_adjusted([report["p"] for report in found.values()])
    return {
        name: Difference(report["difference"], report["p"], p)
        for (name, report), p in zip(found.items(), adjusted, strict=True)
    }


def compare_with_best(
    points: Sequence[SweepPoint], best: SweepPoint | None
) -> tuple[dict[str, Difference], dict[str, str]]:
    """Return each point's difference from the best by its name, and for the others why there is none.

    The tests are exact and paired by problem: McNemar's, or the sign-flip test if problems have several samples.
    p is adjusted for all pairs of points, because the best was chosen by its score (`all_pairs_tests`).
    """
    compared, left_out = [], {}
    for point in points:
        if best is None or point is best or point.value is None:
            continue
        if best.samples is None:
            left_out[point.name] = f"the best point cannot be compared: {best.left_out}"
        elif point.samples is None:
            left_out[point.name] = point.left_out
        elif judged_problems(best) != judged_problems(point):
            left_out[point.name] = "it was judged on other problems than the best"
        else:
            compared.append(point)
    if best is None or not compared:
        return {}, left_out
    groups = [group_by_problem(point.samples or ()) for point in (best, *compared)]
    scores, unit = whole_rates([[count_passed(group[task]) for task in groups[0]] for group in groups])
    tests, whole = all_pairs_tests(scores), unit * len(scores[0])
    found = {
        point.name: Difference((sum(row) - sum(scores[0])) / whole, *tests[0, number])
        for number, (point, row) in enumerate(zip(compared, scores[1:], strict=True), 1)
    }
    return found, left_out


def judged_problems(point: SweepPoint) -> tuple[str | None, set[ProblemKey]]:
    return point.benchmark, {problem_key(sample) for sample in point.samples or []}
