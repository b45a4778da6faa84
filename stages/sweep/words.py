"""What came out of a sweep, in sentences: the same on the terminal, on the page and in MLflow."""

import re
from collections.abc import Callable, Sequence

from stages.common.page.formats import format_number, format_p_value, format_percent, format_points
from stages.sweep.results import Sweep, SweepPoint

MOST_NAMES = 8  # points that a sentence lists by name


def objective_name(objective: str) -> str:
    """Return a readable name of the objective's key: pass@1, validation loss kept."""
    key = objective.split(":")[-1].split(".")[-1]
    return f"pass@{key[8:]}" if re.fullmatch(r"pass_at_\d+", key) else key.replace("_", " ")


def is_share(objective: str) -> bool:
    return objective_name(objective).startswith("pass@")


def objective_format(objective: str) -> Callable[[float], str]:
    return format_percent if is_share(objective) else format_number


def list_cautions(sweep: Sweep) -> list[str]:
    """Return the warnings that come before the figures."""
    sentences, weak = [], [point.name for point in sweep.points if point.weak]
    if weak:
        whose = "Every point was" if len(weak) == len(sweep.finished) else f"{join_names(weak)} was"
        sentences.append(
            f"{whose} judged in a weak sandbox (level C, resource limits only): a completion could read files, "
            "use the network and start programs, and so reach what judges it."
        )
    names = sorted({point.benchmark for point in sweep.finished if point.benchmark})
    if len(names) > 1:
        sentences.append(
            f"The points are scored on different benchmarks ({', '.join(names)}): their scores are not comparable."
        )
    if chose_by_score(sweep):
        one = re.search(r":benchmarks\.(.+)\.", sweep.spec.objective)
        chosen_on = [one[1]] if one else names
        where = f" on {' and '.join(chosen_on)}" if chosen_on else ""
        sentences.append(
            f"The best point was chosen by its score{where}, so this figure is flattered: quote one from problems "
            "that chose nothing, or choose on validation loss."
        )
    return sentences


def chose_by_score(sweep: Sweep) -> bool:
    """Whether one of several points was chosen by how many problems it solves."""
    scored = is_share(sweep.spec.objective) or sweep.spec.objective.startswith("reports/report.json:")
    return scored and len({point.value for point in sweep.finished}) > 1


def describe_sweep(sweep: Sweep) -> list[str]:
    """Return the results as sentences for a reader who does not know the project."""
    best = sweep.best
    if best is None:
        return ["No point finished: there is nothing to compare."]
    ended = [point.outcome.status.split()[0] for point in sweep.points if point.value is None]
    unfinished = [f"{ended.count(word)} {word}" for word in dict.fromkeys(ended)]
    counts = ", ".join([f"{count_points(len(sweep.finished))} finished", *unfinished])
    return [
        f"{counts}. {describe_best(sweep, best)}",
        *describe_against_base(sweep.points),
        *describe_against_others(sweep, best),
    ]


def describe_best(sweep: Sweep, best: SweepPoint) -> str:
    form, name = objective_format(sweep.spec.objective), objective_name(sweep.spec.objective)
    value, ends = best.value or 0.0, best.interval(sweep.spec.objective)
    score = form(value) + (f" (95% interval {form(ends[0])} to {form(ends[1])})" if ends else "")
    if len(sweep.finished) == 1:
        return f"Its {name} is {score}."
    which = "lowest" if sweep.spec.direction == "minimize" else "highest"
    equal = sum(point.value == value for point in sweep.finished)
    tied = f" {equal} points have it; the first of them counts as the best." if equal > 1 else ""
    return f"The {which} {name} is {score}, of {best.name}.{tied}"


def describe_against_base(points: Sequence[SweepPoint]) -> list[str]:
    compared = [(point.name, point.base) for point in points if point.base]
    if not compared:
        return []
    if len(compared) == 1:
        [(_, difference)] = compared
        return [
            f"It differs from the base in pass@1 by {'' if difference.beyond_noise else 'no '}more than noise "
            f"({format_points(difference.value)} points, p {format_p_value(difference.p)})."
        ]
    names = [f"{name} ({'better' if d.value > 0 else 'worse'})" for name, d in compared if d.beyond_noise]
    correction = f"Holm's correction for {count_points(len(compared))}"
    if not names:
        return [f"No point differs from the base in pass@1 by more than noise ({correction})."]
    who = "One point differs" if len(names) == 1 else f"{len(names)} points differ"
    return [f"{who} from the base in pass@1 by more than noise ({correction}): {join_names(names)}."]


def describe_against_others(sweep: Sweep, best: SweepPoint) -> list[str]:
    """Say whether the best point stands out, and why its lead may be luck."""
    compared = [(point.name, point.best) for point in sweep.points if point.best]
    left_out = {point.name: point.left_out for point in sweep.points if point.left_out}
    sentences = []
    if compared:
        differing = [name for name, difference in compared if difference.beyond_noise]
        others = f"the other {count_points(len(compared))}" if len(compared) > 1 else "the other point"
        pairs = len(compared) * (len(compared) + 1) // 2
        correction = "exact test on the same problems" + (
            f", Holm's correction for all {pairs} pairs of points" if pairs > 1 else ""
        )
        sentences.append(
            f"The best differs in pass@1 by more than noise from {len(differing)} of {others}: "
            f"{join_names(differing)} ({correction})."
            if differing
            else f"The best does not differ in pass@1 from {others} by more than noise ({correction}): these "
            "problems cannot tell which is better."
        )
    if any(point.value != best.value for point in sweep.finished):
        sentences.append(
            f"The best of {len(sweep.finished)} points looks better than it is, because it was picked for its "
            "score: expect a smaller lead on other problems."
        )
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        sentences.append(f"Not compared with the best: {join_names(names)}. The reason: {reason}.")
    return sentences


def count_points(points: int) -> str:
    return f"{points} point" if points == 1 else f"{points} points"


def join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "; ".join(names[:MOST_NAMES]) + more
