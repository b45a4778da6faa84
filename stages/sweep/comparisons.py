"""Which points of a sweep differ from the base and the best point by more than noise, and sentences on it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.comparison import SIGNIFICANCE_LEVEL, count_passed, group_by_problem, whole_rates
from stages.common.page.formats import format_number, format_p_value, format_percent, format_points
from stages.common.statistics import all_pairs_tests, holm_adjusted
from stages.sweep.results import UNFINISHED, Metrics, PointResult, SweepResults, metrics_name
from stages.track.run_contents import is_number

MOST_DIGITS = 8
MAX_LABELS = 8  # points that a sentence lists by name


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
class PointComparison:
    """A point compared with the base and with the best point."""

    point: PointResult
    # Its swept values
    label: str
    # 95% interval of the objective, if the metrics have it
    low: float | None
    high: float | None
    # Tuned less base
    base: Difference | None
    # This point less the best one
    best: Difference | None
    is_best: bool
    # Why it is not compared with the best
    left_out: str = ""


def compare_points(sweep: SweepResults) -> list[PointComparison]:
    """Compare each point with the base and the best point; in the sweep's order."""
    best = best_point(sweep)
    labels, bases = distinct_labels(sweep), against_base(sweep.finished)
    bests, left_out = against_best(sweep.finished, best)
    comparisons = []
    for point, label in zip(sweep.points, labels, strict=True):
        low, high = (
            metric_interval(point.metrics, sweep.objective) if point.value is not None else (None, None)
        )
        name = point.attempt.name
        comparisons.append(
            PointComparison(
                point=point,
                label=label,
                low=low,
                high=high,
                base=bases.get(name),
                best=bests.get(name),
                is_best=point is best,
                left_out=left_out.get(name, ""),
            )
        )
    return comparisons


def best_point(sweep: SweepResults) -> PointResult | None:
    """Return the point with the best objective, the first of equals; None if no point finished."""
    sign = -1 if sweep.direction == "minimize" else 1
    return max(sweep.finished, key=lambda point: sign * (point.value or 0), default=None)


def against_base(points: Sequence[PointResult]) -> dict[str, Difference]:
    """Return tuned less base, from reports/report.json, by the point's name; p adjusted for the number of points."""
    found = {}
    for point in points:
        report = point.metrics.get("report", {})
        if is_number(report.get("p")) and is_number(report.get("difference")):
            found[point.attempt.name] = (float(report["difference"]), float(report["p"]))
    return adjust_differences(found)


def against_best(
    points: Sequence[PointResult], best: PointResult | None
) -> tuple[dict[str, Difference], dict[str, str]]:
    """Return each point's difference from the best by its name, and for the others why there is none.

    The tests are exact and paired by problem: McNemar's, or the sign-flip test if problems have several samples.
    p is adjusted for all pairs of points, because the best was chosen by its score (`all_pairs_tests`).
    """
    compared, left_out = [], {}
    for point in points:
        if best is None or point is best:
            continue
        if best.samples is None:
            left_out[point.attempt.name] = f"the best point cannot be compared: {best.no_samples}"
        elif point.samples is None:
            left_out[point.attempt.name] = point.no_samples
        elif judged_problems(best) != judged_problems(point):
            left_out[point.attempt.name] = "it was judged on other problems than the best"
        else:
            compared.append(point)
    if best is None or not compared:
        return {}, left_out
    groups = [group_by_problem(point.samples or ()) for point in (best, *compared)]
    scores, unit = whole_rates([[count_passed(group[task]) for task in groups[0]] for group in groups])
    tests, whole = all_pairs_tests(scores), unit * len(scores[0])
    found = {
        point.attempt.name: Difference((sum(row) - sum(scores[0])) / whole, *tests[0, number])
        for number, (point, row) in enumerate(zip(compared, scores[1:], strict=True), 1)
    }
    return found, left_out


def adjust_differences(found: Mapping[str, tuple[float, float]]) -> dict[str, Difference]:
    corrected = holm_adjusted([p for _, p in found.values()])
    return {
        name: Difference(value, p, p_holm)
        for (name, (value, p)), p_holm in zip(found.items(), corrected, strict=True)
    }


def judged_problems(point: PointResult) -> tuple[Any, set[str]]:
    benchmark = point.metrics.get("evaluate/tuned", {}).get("benchmark")
    return benchmark, {sample["task_id"] for sample in point.samples or []}


def metric_value(metrics: Metrics, objective: str, suffix: str = "") -> float | None:
    """Return the number that an objective names, with `suffix` appended to its key; None if there is none."""
    file, _, key = objective.partition(":")
    value: Any = metrics.get(metrics_name(file))
    for part in f"{key}{suffix}".split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if is_number(value) else None


def metric_interval(metrics: Metrics, objective: str) -> tuple[float, float] | tuple[None, None]:
    """Return the interval that the metrics keep beside the objective, such as pass_at_1_low and pass_at_1_high."""
    low, high = metric_value(metrics, objective, "_low"), metric_value(metrics, objective, "_high")
    return (None, None) if low is None or high is None else (low, high)


def base_value(sweep: SweepResults) -> tuple[float, float | None, float | None] | None:
    """Return the base model's score and interval; None if it has none or the points have different bases."""
    objective = sweep.objective.replace("reports/evaluate/tuned.json:", "reports/evaluate/base.json:")
    if objective == sweep.objective:
        return None
    found = {
        (metric_value(p.metrics, objective), *metric_interval(p.metrics, objective)) for p in sweep.finished
    }
    value, low, high = next(iter(found)) if len(found) == 1 else (None, None, None)
    return None if value is None else (value, low, high)


def is_share(objective: str) -> bool:
    return objective_name(objective).startswith("pass@")


def objective_name(objective: str) -> str:
    """Return a readable name of the objective's key: pass@1, validation loss kept."""
    key = objective.split(":")[-1].split(".")[-1]
    return f"pass@{key[8:]}" if re.fullmatch(r"pass_at_\d+", key) else key.replace("_", " ")


def objective_format(objective: str) -> Callable[[float], str]:
    return format_percent if is_share(objective) else format_number


def distinct_labels(sweep: SweepResults) -> list[str]:
    """Return a label for each point, such as `rank 8, learning_rate 4e-4`; with its name if not unique or empty."""
    short = short_keys(sweep.keys)
    labels = [
        ", ".join(f"{short[key]} {round_value(value)}" for key, value in point.attempt.overrides.items())
        for point in sweep.points
    ]
    return [
        label if label and labels.count(label) == 1 else f"{label} {point.attempt.name}".strip()
        for label, point in zip(labels, sweep.points, strict=True)
    ]


def round_value(value: str) -> str:
    """Return a swept value with the many digits of a sampler cut to four; others unchanged."""
    try:
        return f"{float(value):.4g}" if len(value) > MOST_DIGITS else value
    except ValueError:
        return value


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return each key's last part, or the whole key if two have the same last part."""
    last = {key: key.split(".")[-1] for key in keys}
    return {key: short if list(last.values()).count(short) == 1 else key for key, short in last.items()}


def is_weak(point: PointResult) -> bool:
    """Whether the point's samples were judged at level C, where a completion can reach what judges it."""
    tuned, report = (point.metrics.get(stage, {}) for stage in ("evaluate/tuned", "report"))
    isolation = tuned.get("isolation")
    level = isolation.get("level") if isinstance(isolation, dict) else None
    return bool(level == "C" or tuned.get("weak_sandbox") or report.get("weak_sandbox"))


def list_cautions(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> list[str]:
    """Return the warnings that come before the figures."""
    sentences, weak = [], [comparison.label for comparison in comparisons if is_weak(comparison.point)]
    if weak:
        whose = "Every point was" if len(weak) == len(sweep.finished) else f"{join_labels(weak)} was"
        sentences.append(
            f"{whose} judged in a weak sandbox (level C, resource limits only): a completion could read files, use the "
            "network and start programs, and so reach what judges it."
        )
    names = {p.metrics.get("evaluate/tuned", {}).get("benchmark") for p in sweep.finished} - {None}
    if len(names) > 1:
        sentences.append(
            f"The points are scored on different benchmarks ({', '.join(sorted(map(str, names)))}): their scores are not comparable."
        )
    return sentences


def describe_results(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> list[str]:
    """Return the results as sentences for a reader who does not know the project."""
    best = next((comparison for comparison in comparisons if comparison.is_best), None)
    if best is None:
        return ["No point finished: there is nothing to compare."]
    unfinished = [f"{count} {word}" for word in UNFINISHED if (count := count_with_status(sweep, word))]
    counts = ", ".join([f"{format_point_count(len(sweep.finished))} finished", *unfinished])
    return [
        f"{counts}. {describe_best(sweep, best)}",
        *describe_against_base(comparisons),
        *describe_against_others(comparisons, best),
    ]


def count_with_status(sweep: SweepResults, status: str) -> int:
    return sum(point.attempt.status.startswith(status) for point in sweep.points)


def describe_best(sweep: SweepResults, best: PointComparison) -> str:
    form, name = objective_format(sweep.objective), objective_name(sweep.objective)
    value = best.point.value or 0.0
    ends = (
        ""
        if best.low is None or best.high is None
        else f" (95% interval {form(best.low)} to {form(best.high)})"
    )
    if len(sweep.finished) == 1:
        return f"Its {name} is {form(value)}{ends}."
    which = "lowest" if sweep.direction == "minimize" else "highest"
    equal = sum(point.value == value for point in sweep.finished)
    tied = f" {equal} points have it; the first of them counts as the best." if equal > 1 else ""
    return f"The {which} {name} is {form(value)}{ends}, of {best.label}.{tied}"


def describe_against_base(comparisons: Sequence[PointComparison]) -> list[str]:
    compared = [(comparison.label, comparison.base) for comparison in comparisons if comparison.base]
    if not compared:
        return []
    if len(compared) == 1:
        [(_, difference)] = compared
        no = "" if difference.beyond_noise else "no "
        return [
            f"It differs from the base in pass@1 by {no}more than noise "
            f"({format_points(difference.value)} points, p {format_p_value(difference.p)})."
        ]
    names = [f"{label} ({'better' if d.value > 0 else 'worse'})" for label, d in compared if d.beyond_noise]
    correction = f"Holm's correction for {format_point_count(len(compared))}"
    if not names:
        return [f"No point differs from the base in pass@1 by more than noise ({correction})."]
    who = "One point differs" if len(names) == 1 else f"{len(names)} points differ"
    return [f"{who} from the base in pass@1 by more than noise ({correction}): {join_labels(names)}."]


def describe_against_others(comparisons: Sequence[PointComparison], best: PointComparison) -> list[str]:
    """Return whether the best point stands out, and why its lead may be luck."""
    compared = [(comparison.label, comparison.best) for comparison in comparisons if comparison.best]
    left_out = [comparison for comparison in comparisons if comparison.left_out]
    sentences = []
    if compared:
        differing = [label for label, difference in compared if difference.beyond_noise]
        others = f"the other {format_point_count(len(compared))}" if len(compared) > 1 else "the other point"
        pairs = len(compared) * (len(compared) + 1) // 2
        correction = "exact test on the same problems" + (
            f", Holm's correction for all {pairs} pairs of points" if pairs > 1 else ""
        )
        sentences.append(
            f"The best differs in pass@1 by more than noise from {len(differing)} of {others}: {join_labels(differing)} ({correction})."
            if differing
            else f"The best does not differ in pass@1 from {others} by more than noise ({correction}): these problems cannot "
            "tell which is better."
        )
    if len({comparison.point.value for comparison in comparisons} - {None}) > 1 and (compared or left_out):
        sentences.append(
            f"The best of {len(compared) + len(left_out) + 1} points looks better than it is, because it was picked for "
            "its score: part of its lead is luck, even where it is more than noise. Expect a smaller lead on other problems."
        )
    for reason in dict.fromkeys(comparison.left_out for comparison in left_out):
        names = [comparison.label for comparison in left_out if comparison.left_out == reason]
        sentences.append(f"Not compared with the best: {join_labels(names)}. The reason: {reason}.")
    return sentences


def format_point_count(points: int) -> str:
    return f"{points} point" if points == 1 else f"{points} points"


def join_labels(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LABELS} more" if len(names) > MAX_LABELS else ""
    return "; ".join(names[:MAX_LABELS]) + more
