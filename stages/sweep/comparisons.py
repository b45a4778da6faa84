"""Which points of a sweep differ from the base and from the best point by more than noise, and that in words."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.comparison import SIGNIFICANCE_LEVEL, compare_models
from stages.common.page.formats import format_number, format_p_value, format_percent, format_points
from stages.common.statistics import holm_adjusted
from stages.sweep.results import NO_OBJECTIVE, Metrics, Point, SweepEvidence, stem
from stages.track.run_contents import is_number

MOST_DIGITS = 8
SHOWN = 8  # points that a sentence lists by name


@dataclass(frozen=True)
class Difference:
    """In pass@1, as a share: 0.01 is a percentage point."""

    value: float
    p: float
    p_holm: float  # adjusted for the number of such differences in the sweep

    @property
    def beyond_noise(self) -> bool:
        return self.p_holm < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class Finding:
    """What is found of a point."""

    point: Point
    label: str  # its swept values
    low: float | None  # ends of the objective's 95% interval, where the metrics have them
    high: float | None
    base: Difference | None  # tuned less base
    best: Difference | None  # this point less the best one
    is_best: bool
    left_out: str = ""  # why it is not compared with the best


def findings(sweep: SweepEvidence) -> list[Finding]:
    """A finding for each point, in the sweep's order."""
    best = best_point(sweep)
    labels, bases = distinct_labels(sweep), against_base(sweep.finished)
    bests, left_out = against_best(sweep.finished, best)
    found = []
    for point, label in zip(sweep.points, labels, strict=True):
        low, high = interval(point.metrics, sweep.objective) if point.value is not None else (None, None)
        name = point.tried.name
        found.append(
            Finding(
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
    return found


def best_point(sweep: SweepEvidence) -> Point | None:
    """The point of the best objective, the first of several; None where no point was finished."""
    sign = -1 if sweep.direction == "minimize" else 1
    return max(sweep.finished, key=lambda point: sign * (point.value or 0), default=None)


def against_base(points: Sequence[Point]) -> dict[str, Difference]:
    """By the point's name, from reports/report.json: tuned against base, adjusted over the points that have it."""
    found = {}
    for point in points:
        report = point.metrics.get("report", {})
        if is_number(report.get("p")) and is_number(report.get("difference")):
            found[point.tried.name] = (float(report["difference"]), float(report["p"]))
    return adjusted(found)


def against_best(points: Sequence[Point], best: Point | None) -> tuple[dict[str, Difference], dict[str, str]]:
    """By the point's name: what each judges otherwise than the best, or why that cannot be told.

    The test is exact and paired by problem: McNemar's, or the sign-flip test where problems have several samples.
    """
    found, left_out = {}, {}
    for point in points:
        if best is None or point is best:
            continue
        if best.samples is None:
            left_out[point.tried.name] = f"the best point cannot be compared: {best.unread}"
        elif point.samples is None:
            left_out[point.tried.name] = point.unread
        elif problems(best) != problems(point):
            left_out[point.tried.name] = "it was judged on other problems than the best"
        else:
            compared = compare_models(best.samples, point.samples)
            found[point.tried.name] = (compared.difference, compared.p)
    return adjusted(found), left_out


def adjusted(found: Mapping[str, tuple[float, float]]) -> dict[str, Difference]:
    corrected = holm_adjusted([p for _, p in found.values()])
    return {
        name: Difference(value, p, p_holm)
        for (name, (value, p)), p_holm in zip(found.items(), corrected, strict=True)
    }


def problems(point: Point) -> tuple[Any, set[str]]:
    benchmark = point.metrics.get("evaluate/tuned", {}).get("benchmark")
    return benchmark, {sample["task_id"] for sample in point.samples or []}


def at(metrics: Metrics, objective: str, ending: str = "") -> float | None:
    """The number that an objective names, its key with `ending` behind it; None where there is none."""
    file, _, key = objective.partition(":")
    value: Any = metrics.get(stem(file))
    for part in f"{key}{ending}".split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if is_number(value) else None


def interval(metrics: Metrics, objective: str) -> tuple[float, float] | tuple[None, None]:
    """The ends that the metrics file keeps beside the objective, as pass_at_1_low and pass_at_1_high."""
    low, high = at(metrics, objective, "_low"), at(metrics, objective, "_high")
    return (None, None) if low is None or high is None else (low, high)


def base_value(sweep: SweepEvidence) -> tuple[float, float | None, float | None] | None:
    """The base model's own score and its interval; None where it has none or the points have several bases."""
    objective = sweep.objective.replace("reports/evaluate/tuned.json:", "reports/evaluate/base.json:")
    if objective == sweep.objective:
        return None
    found = {(at(p.metrics, objective), *interval(p.metrics, objective)) for p in sweep.finished}
    value, low, high = next(iter(found)) if len(found) == 1 else (None, None, None)
    return None if value is None else (value, low, high)


def is_share(objective: str) -> bool:
    return shown_name(objective).startswith("pass@")


def shown_name(objective: str) -> str:
    """The objective's key as people say it: pass@1, validation loss kept."""
    key = objective.split(":")[-1].split(".")[-1]
    return f"pass@{key[8:]}" if re.fullmatch(r"pass_at_\d+", key) else key.replace("_", " ")


def shown_value(objective: str) -> Callable[[float], str]:
    return format_percent if is_share(objective) else format_number


def distinct_labels(sweep: SweepEvidence) -> list[str]:
    """How each point is called: `rank 8, learning_rate 4e-4`; with its name where two are called alike or nothing is swept."""
    short = short_keys(sweep.keys)
    labels = [
        ", ".join(f"{short[key]} {rounded(value)}" for key, value in point.tried.overrides.items())
        for point in sweep.points
    ]
    return [
        label if label and labels.count(label) == 1 else f"{label} {point.tried.name}".strip()
        for label, point in zip(labels, sweep.points, strict=True)
    ]


def rounded(value: str) -> str:
    """A swept value for people: the many digits that a sampler draws cut to four, anything else as it was given."""
    try:
        return f"{float(value):.4g}" if len(value) > MOST_DIGITS else value
    except ValueError:
        return value


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part, or the whole key where two end alike."""
    last = {key: key.split(".")[-1] for key in keys}
    return {key: short if list(last.values()).count(short) == 1 else key for key, short in last.items()}


def is_weak(point: Point) -> bool:
    """Whether the point's samples were judged at level C, where a completion can do much."""
    tuned, report = (point.metrics.get(stage, {}) for stage in ("evaluate/tuned", "report"))
    isolation = tuned.get("isolation")
    level = isolation.get("level") if isinstance(isolation, dict) else None
    return bool(level == "C" or tuned.get("weak_sandbox") or report.get("weak_sandbox"))


def cautions(sweep: SweepEvidence, found: Sequence[Finding]) -> list[str]:
    """What a reader must know before the figures."""
    said, weak = [], [finding.label for finding in found if is_weak(finding.point)]
    if weak:
        whose = "Every point was" if len(weak) == len(sweep.finished) else f"{listed(weak)} was"
        said.append(
            f"{whose} judged in a weak sandbox (level C, resource limits only): a completion could read files, use the "
            "network and start programs, and so reach what judges it."
        )
    names = {p.metrics.get("evaluate/tuned", {}).get("benchmark") for p in sweep.finished} - {None}
    if len(names) > 1:
        said.append(
            f"The points are scored on different benchmarks ({', '.join(sorted(map(str, names)))}): their scores do not compare."
        )
    return said


def words(sweep: SweepEvidence, found: Sequence[Finding]) -> list[str]:
    """What came out, in sentences that a stranger understands."""
    best = next((finding for finding in found if finding.is_best), None)
    if best is None:
        return ["No point was finished: there is nothing to compare."]
    unfinished = [f"{count} {word}" for word in NO_OBJECTIVE if (count := with_status(sweep, word))]
    told = f"{counted(len(sweep.finished))} finished" + "".join(f", {part}" for part in unfinished)
    return [f"{told}. {best_words(sweep, best)}", *base_words(found), *others_words(found, best)]


def with_status(sweep: SweepEvidence, status: str) -> int:
    return sum(point.tried.status.startswith(status) for point in sweep.points)


def best_words(sweep: SweepEvidence, best: Finding) -> str:
    form, value, name = shown_value(sweep.objective), best.point.value or 0.0, shown_name(sweep.objective)
    ends = (
        ""
        if best.low is None or best.high is None
        else f" (95% interval {form(best.low)} to {form(best.high)})"
    )
    if len(sweep.finished) == 1:
        return f"Its {name} is {form(value)}{ends}."
    which = "lowest" if sweep.direction == "minimize" else "highest"
    equal = sum(point.value == value for point in sweep.finished)
    tied = f" {equal} points have it; the first of them is taken for the best." if equal > 1 else ""
    return f"The {which} {name} is {form(value)}{ends}, of {best.label}.{tied}"


def base_words(found: Sequence[Finding]) -> list[str]:
    compared = [(finding.label, finding.base) for finding in found if finding.base]
    if not compared:
        return []
    if len(compared) == 1:
        told = f"differs from the base in pass@1 by {'' if compared[0][1].beyond_noise else 'no '}more than noise"
        return [
            f"It {told} ({format_points(compared[0][1].value)} points, p {format_p_value(compared[0][1].p)})."
        ]
    names = [f"{label} ({'better' if d.value > 0 else 'worse'})" for label, d in compared if d.beyond_noise]
    correction = f"Holm's correction for {counted(len(compared))}"
    if not names:
        return [f"No point differs from the base in pass@1 by more than noise ({correction})."]
    who = "One point differs" if len(names) == 1 else f"{len(names)} points differ"
    return [f"{who} from the base in pass@1 by more than noise ({correction}): {listed(names)}."]


def others_words(found: Sequence[Finding], best: Finding) -> list[str]:
    """Whether the best stands out, and why that is to be taken with care."""
    compared = [(finding.label, finding.best) for finding in found if finding.best]
    left_out = [finding for finding in found if finding.left_out]
    said = []
    if compared:
        differing = [label for label, difference in compared if difference.beyond_noise]
        others = f"the other {counted(len(compared))}" if len(compared) > 1 else "the other point"
        correction = "exact test on the same problems" + (
            f", Holm's correction for {len(compared)}" if len(compared) > 1 else ""
        )
        said.append(
            f"The best differs in pass@1 by more than noise from {len(differing)} of {others}: {listed(differing)} ({correction})."
            if differing
            else f"The best does not differ in pass@1 from {others} by more than noise ({correction}): these problems cannot "
            "tell which is better."
        )
    if len({finding.point.value for finding in found} - {None}) > 1 and (compared or left_out):
        said.append(
            f"The best of {len(compared) + len(left_out) + 1} points is flattered by having been chosen: some of its lead is luck, "
            "which no correction for the number of points takes out, and on other problems the lead will be smaller."
        )
    for reason in dict.fromkeys(finding.left_out for finding in left_out):
        names = [finding.label for finding in left_out if finding.left_out == reason]
        said.append(f"Not compared with the best: {listed(names)}. The reason: {reason}.")
    return said


def counted(points: int) -> str:
    return f"{points} point" if points == 1 else f"{points} points"


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
