"""Compare the base and the tuned model problem by problem, and put the result into words."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.page.formats import format_chance, format_p_value, format_percent, format_points
from stages.common.rows.schema import problem_cluster
from stages.common.statistics import (
    holm_adjusted,
    paired_bootstrap_interval,
    pass_at_k,
    sign_flip_test,
    smallest_detectable,
)

COMPARED_TARGETS = ("base", "tuned")
PASSED = "passed"  # the verdict of a sample whose program passed its tests
SIGNIFICANCE_LEVEL = 0.05  # a difference with p below this is more than noise
SampleRow = dict[str, Any]  # a line of samples.jsonl
ProblemKey = tuple[str, str]  # a benchmark and a task_id
PassCount = tuple[int, int]  # samples of a problem, and how many of them passed


@dataclass(frozen=True)
class ProblemOutcome:
    """One problem, with the sample of each model that best shows why it was won or lost."""

    benchmark: str
    task_id: str
    base: SampleRow
    tuned: SampleRow
    # won | lost | both | neither | equal (several samples: the same share passed, neither all nor none)
    outcome: str
    base_count: PassCount
    tuned_count: PassCount

    @property
    def cluster(self) -> str:
        return problem_cluster(self.benchmark, self.task_id, self.base.get("parent") or "")


@dataclass(frozen=True)
class Comparison:
    """A set of problems in the benchmark's order, and whether the two models' pass@1 differs on them."""

    problems: list[ProblemOutcome]
    # Exact: McNemar's test with one sample per problem, the sign-flip test of pass rates with several
    p: float
    difference: float  # pass@1, tuned minus base
    low: float  # its 95% interval, by the paired bootstrap (`difference_interval`)
    high: float
    # Smallest difference beyond noise if as many problems differ as here; None: no difference would be
    detectable_difference: float | None

    def with_outcome(self, outcome: str) -> list[ProblemOutcome]:
        return [problem for problem in self.problems if problem.outcome == outcome]

    @property
    def won(self) -> list[ProblemOutcome]:
        return self.with_outcome("won")

    @property
    def lost(self) -> list[ProblemOutcome]:
        return self.with_outcome("lost")

    @property
    def beyond_noise(self) -> bool:
        return self.p < SIGNIFICANCE_LEVEL

    @property
    def has_several_samples(self) -> bool:
        """Whether any problem has more than one sample."""
        return any(
            count[0] > 1 for problem in self.problems for count in (problem.base_count, problem.tuned_count)
        )

    @property
    def independent(self) -> int:
        """How many problems there are, versions of one counted once."""
        return len({problem.cluster for problem in self.problems})

    @property
    def in_whole_problems(self) -> bool:
        """Whether each problem is won or lost by itself, so that the test counts them."""
        return not self.has_several_samples and self.independent == len(self.problems)

    @property
    def test_name(self) -> str:
        if not self.in_whole_problems:
            return "exact sign-flip test over the problems' pass rates"
        return "exact McNemar test"


def compare_models(
    base: Sequence[SampleRow], tuned: Sequence[SampleRow], without: Collection[ProblemKey] = ()
) -> Comparison:
    """Compare two models' samples on the problems that both have, leaving out those in `without`.

    A problem is won if a larger share of the tuned model's samples passes, lost if a smaller share does. One
    test pools the problems of all benchmarks: each sign is flipped by itself, so every benchmark keeps its own
    differences; problems that are versions of one are flipped together.

    Raises:
        ValueError: no problem is left.
    """
    by_task_base, by_task_tuned = group_by_problem(base), group_by_problem(tuned)
    tasks = [task for task in by_task_base if task in by_task_tuned and task not in without]
    problems = [compare_problem(*task, by_task_base[task], by_task_tuned[task]) for task in tasks]
    (before, after), unit = whole_rates([pass_counts(problems, target) for target in COMPARED_TARGETS])
    differences = [b - a for a, b in zip(before, after, strict=True)]
    clusters = Counter[str]()
    for problem, difference in zip(problems, differences, strict=True):
        clusters[problem.cluster] += difference
    p_value, detectable = sign_flip_test(list(clusters.values()), SIGNIFICANCE_LEVEL)
    _, low, high = difference_interval(problems, 1)
    whole = unit * len(problems)
    return Comparison(
        problems=problems,
        p=p_value,
        difference=sum(differences) / whole,
        low=low,
        high=high,
        detectable_difference=None if detectable is None else detectable / whole,
    )


def compare_by_benchmark(
    base: Sequence[SampleRow], tuned: Sequence[SampleRow]
) -> dict[str, tuple[Comparison, float]]:
    """Compare two models on each benchmark that both have: the comparison, and p after Holm's correction."""
    parts: dict[str, tuple[list[SampleRow], list[SampleRow]]] = {}
    for side, rows in enumerate((base, tuned)):
        for row in rows:
            parts.setdefault(row.get("benchmark", ""), ([], []))[side].append(row)
    parts = {name: both for name, both in parts.items() if all(both)}
    found = [compare_models(before, after) for before, after in parts.values()]
    adjusted = holm_adjusted([comparison.p for comparison in found])
    return dict(zip(parts, zip(found, adjusted, strict=True), strict=True))


def whole_rates(counts: Sequence[Sequence[PassCount]]) -> tuple[list[list[int]], int]:
    """Return pass rates as whole numbers, and their unit: the least common multiple of all sample counts."""
    unit = math.lcm(*(samples for row in counts for samples, _ in row))
    return [[passed * unit // samples for samples, passed in row] for row in counts], unit


def difference_interval(problems: Sequence[ProblemOutcome], k: int) -> tuple[float, float, float]:
    """Return the difference in pass@k (tuned minus base) and its 95% interval, by the paired bootstrap.

    Versions of one problem are drawn together, and each benchmark keeps its number of problems.
    """
    base, tuned = ([pass_at_k(*c, k) for c in pass_counts(problems, target)] for target in COMPARED_TARGETS)
    difference = (math.fsum(tuned) - math.fsum(base)) / len(problems)
    clusters = [problem.cluster for problem in problems]
    strata = [problem.benchmark for problem in problems]
    return difference, *paired_bootstrap_interval(base, tuned, clusters=clusters, strata=strata)


def pass_counts(problems: Sequence[ProblemOutcome], target: str) -> list[PassCount]:
    return [getattr(problem, f"{target}_count") for problem in problems]


def problem_key(line: Mapping[str, Any]) -> ProblemKey:
    """Return the benchmark and task_id of a line of samples.jsonl or near.jsonl; two benchmarks may share a task_id."""
    return line.get("benchmark", ""), line["task_id"]


def group_by_problem(samples: Sequence[SampleRow]) -> dict[ProblemKey, list[SampleRow]]:
    groups: dict[ProblemKey, list[SampleRow]] = {}
    for sample in samples:
        groups.setdefault(problem_key(sample), []).append(sample)
    return groups


def compare_problem(
    benchmark: str, task_id: str, base: list[SampleRow], tuned: list[SampleRow]
) -> ProblemOutcome:
    counts = [count_passed(samples) for samples in (base, tuned)]
    base_rate, tuned_rate = (passed / samples for samples, passed in counts)
    if base_rate == tuned_rate:
        outcome = {0.0: "neither", 1.0: "both"}.get(base_rate, "equal")
    else:
        outcome = "won" if tuned_rate > base_rate else "lost"
    return ProblemOutcome(
        benchmark,
        task_id,
        pick_sample(base, outcome == "lost"),
        pick_sample(tuned, outcome == "won"),
        outcome,
        *counts,
    )


def count_passed(samples: Sequence[SampleRow]) -> PassCount:
    return len(samples), sum(sample["verdict"] == PASSED for sample in samples)


def pick_sample(samples: Sequence[SampleRow], passed: bool) -> SampleRow:
    """Return the first sample that passed (or that did not); the first of all if there is none."""
    return next((s for s in samples if (s["verdict"] == PASSED) == passed), samples[0])


def format_pass_at_1_interval(metrics: Mapping[str, Any]) -> str:
    """Return the 95% interval of pass@1 as text."""
    return f"{format_percent(metrics['pass_at_1_low'])} to {format_percent(metrics['pass_at_1_high'])}"


def format_difference(comparison: Comparison) -> str:
    """Return `+1.2 percentage points, 95% interval -2.4 to +4.9`."""
    ends = f"{format_points(comparison.low)} to {format_points(comparison.high)}"
    return f"{format_points(comparison.difference)} percentage points, 95% interval {ends}"


def describe_verdict(comparison: Comparison) -> str:
    """Say whether the difference is more than noise, in words for a reader who knows no statistics."""
    won, lost, p = len(comparison.won), len(comparison.lost), comparison.p
    if not comparison.difference:
        if not won:
            return "The two models solve the same problems."
        if comparison.has_several_samples:
            return "The two models pass equally often."
        return "The two models solve the same number of problems."
    better = "better" if comparison.difference > 0 else "worse"
    result = (
        f"a difference of at least {100 * abs(comparison.difference):.1f} points in either direction"
        if not comparison.in_whole_problems
        else f"a split at least as uneven as {won} won and {lost} lost"
    )
    chance = (
        f"If the models were equally good, chance alone would produce {result} in {format_chance(p)} of "
        f"comparisons ({comparison.test_name}, p {format_p_value(p)})."
    )
    if comparison.beyond_noise:
        verdict = f"The tuned model is {better}, by more than noise."
    else:
        verdict = f"The tuned model looks {better}, but the difference is not more than noise."
    return f"{verdict} {chance}{describe_disagreement(comparison)}"


def describe_disagreement(comparison: Comparison) -> str:
    """Warn if interval and test disagree, as they can when few problems differ; empty if they agree."""
    if (comparison.low > 0 or comparison.high < 0) == comparison.beyond_noise:
        return ""
    return (
        " The 95% interval suggests otherwise, but it is approximate when few problems differ; "
        "the test is exact."
    )


def describe_smallest_difference(comparison: Comparison) -> str:
    """State the smallest difference this benchmark can show: at best, and with as many differing as here."""
    problems, differing = comparison.independent, len(comparison.won) + len(comparison.lost)
    best = smallest_detectable(problems)
    if best > problems:
        return f"{problems} problems are too few: no difference on them can be more than noise."
    if not comparison.in_whole_problems:
        first = f"To be more than noise, a difference must show on at least {best} of {problems} problems."
    else:
        first = (
            f"The smallest difference beyond noise on {problems} problems is {best} won and none lost "
            f"({100 * best / problems:.1f} points)."
        )
    if not differing:
        return first
    if comparison.detectable_difference is None:
        return f"{first} The two models differ on only {differing}, too few for that."
    needed = f"{100 * comparison.detectable_difference:.1f} points"
    if comparison.in_whole_problems:
        margin = round(comparison.detectable_difference * problems)  # won minus lost
        if margin == best == differing:
            return first
        needed = f"{(differing + margin) // 2} won and {(differing - margin) // 2} lost ({needed})"
    return f"{first} Here the models differ on {differing}; with that many it takes {needed}."
