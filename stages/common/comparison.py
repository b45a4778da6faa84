"""Base against tuned, problem by problem, and in words."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.page.formats import format_chance, format_p_value, format_percent, format_points
from stages.common.statistics import paired_bootstrap_interval, pass_at_k, sign_flip_test, smallest_detectable

SIGNIFICANCE_LEVEL = 0.05  # p from which a difference counts as noise
SampleRow = dict[str, Any]
PassCount = tuple[int, int]  # samples, and those that passed


@dataclass(frozen=True)
class ProblemOutcome:
    """One problem with a sample of each model: the first that tells why it was won or lost."""

    task_id: str
    base: SampleRow
    tuned: SampleRow
    outcome: str  # won | lost | both | neither | equal (several samples, same share passed, not all or none)
    base_count: PassCount
    tuned_count: PassCount


@dataclass(frozen=True)
class Comparison:
    """Some problems, in the benchmark's order, and whether the two models differ on them in pass@1."""

    pairs: list[ProblemOutcome]
    p: float  # exact: McNemar's with a sample a problem, the sign-flip test of pass rates with several
    difference: float  # pass@1 of tuned less base
    low: float  # its 95% interval, by the paired bootstrap
    high: float
    needed: (
        float | None
    )  # the least difference beyond noise where as much differs as here; None: no difference is

    def having(self, outcome: str) -> list[ProblemOutcome]:
        return [pair for pair in self.pairs if pair.outcome == outcome]

    @property
    def won(self) -> list[ProblemOutcome]:
        return self.having("won")

    @property
    def lost(self) -> list[ProblemOutcome]:
        return self.having("lost")

    @property
    def beyond_noise(self) -> bool:
        return self.p < SIGNIFICANCE_LEVEL

    @property
    def several(self) -> bool:
        """Whether a problem has several samples."""
        return any(count[0] > 1 for pair in self.pairs for count in (pair.base_count, pair.tuned_count))

    @property
    def test(self) -> str:
        return "exact sign-flip test over the problems' pass rates" if self.several else "exact McNemar test"


def compare_models(
    base: Sequence[SampleRow], tuned: Sequence[SampleRow], without: Collection[str] = ()
) -> Comparison:
    """Compare two lists of samples over the problems that both hold, but for those in `without`.

    A problem is won where the tuned model passes in a greater share of its samples, lost where in a smaller.

    Raises:
        ValueError: no problem is left.
    """
    of_base, of_tuned = group_by_problem(base), group_by_problem(tuned)
    tasks = [task for task in of_base if task in of_tuned and task not in without]
    pairs = [pair(task, of_base[task], of_tuned[task]) for task in tasks]
    unit = math.lcm(*(count[0] for p in pairs for count in (p.base_count, p.tuned_count)))
    units = [
        c[1] * unit // c[0] - b[1] * unit // b[0] for b, c in ((p.base_count, p.tuned_count) for p in pairs)
    ]
    p_value, needed = sign_flip_test(units, SIGNIFICANCE_LEVEL)
    low, high = difference_interval(pairs, 1)[1:]
    whole = unit * len(pairs)
    return Comparison(
        pairs, p_value, sum(units) / whole, low, high, None if needed is None else needed / whole
    )


def difference_interval(pairs: Sequence[ProblemOutcome], k: int) -> tuple[float, float, float]:
    """Difference in pass@k, tuned less base, and its 95% interval by the paired bootstrap."""
    base, tuned = ([pass_at_k(*c, k) for c in counts(pairs, target)] for target in ("base", "tuned"))
    return (math.fsum(tuned) - math.fsum(base)) / len(pairs), *paired_bootstrap_interval(base, tuned)


def counts(pairs: Sequence[ProblemOutcome], target: str) -> list[PassCount]:
    return [getattr(pair, f"{target}_count") for pair in pairs]


def group_by_problem(samples: Sequence[SampleRow]) -> dict[str, list[SampleRow]]:
    groups: dict[str, list[SampleRow]] = {}
    for sample in samples:
        groups.setdefault(sample["task_id"], []).append(sample)
    return groups


def pair(task_id: str, base: list[SampleRow], tuned: list[SampleRow]) -> ProblemOutcome:
    found = [(len(samples), sum(s["verdict"] == PASSED for s in samples)) for samples in (base, tuned)]
    rates = [passed / samples for samples, passed in found]
    if rates[0] == rates[1]:
        outcome = {0.0: "neither", 1.0: "both"}.get(rates[0], "equal")
    else:
        outcome = "won" if rates[1] > rates[0] else "lost"
    return ProblemOutcome(
        task_id, pick_sample(base, outcome == "lost"), pick_sample(tuned, outcome == "won"), outcome, *found
    )


def pick_sample(samples: Sequence[SampleRow], passed: bool) -> SampleRow:
    """The first sample that passed, or that did not; the first of all where there is none."""
    return next((s for s in samples if (s["verdict"] == PASSED) == passed), samples[0])


def format_pass_at_1_interval(metrics: Mapping[str, Any]) -> str:
    """The 95% interval of pass@1, as text."""
    return f"{format_percent(metrics['pass_at_1_low'])} to {format_percent(metrics['pass_at_1_high'])}"


def format_difference(comparison: Comparison) -> str:
    """`+1.2 percentage points, 95% interval -2.4 to +4.9`."""
    ends = f"{format_points(comparison.low)} to {format_points(comparison.high)}"
    return f"{format_points(comparison.difference)} percentage points, 95% interval {ends}"


def describe_verdict(comparison: Comparison) -> str:
    """Whether the difference is more than noise, in words that a stranger understands."""
    won, lost, p = len(comparison.won), len(comparison.lost), comparison.p
    if not comparison.difference:
        what = "pass equally often" if comparison.several else "solve the same number of problems"
        return f"The two models {what if won else 'solve the same problems'}."
    better = "better" if comparison.difference > 0 else "worse"
    split = (
        f"a difference of at least {100 * abs(comparison.difference):.1f} points, one way or the other,"
        if comparison.several
        else f"a split at least as uneven as {won} won to {lost} lost"
    )
    chance = (
        f"If both models were equally good, chance alone would give {split} in {format_chance(p)} of comparisons "
        f"({comparison.test}, p {format_p_value(p)})."
    )
    if comparison.beyond_noise:
        return f"The tuned model is {better}, by more than noise. {chance}{describe_disagreement(comparison)}"
    return f"The tuned model looks {better}, but the difference is not more than noise. {chance}{describe_disagreement(comparison)}"


def describe_disagreement(comparison: Comparison) -> str:
    """Said where the interval and the test tell different things, as they may where few problems differ."""
    if (comparison.low > 0 or comparison.high < 0) == comparison.beyond_noise:
        return ""
    return " The 95% interval tells otherwise; it is approximate where few problems differ, and the test is exact."


def describe_smallest_difference(comparison: Comparison) -> str:
    """The smallest difference that this benchmark could have shown: at best, and with as much that differs as here."""
    problems, differing = len(comparison.pairs), len(comparison.won) + len(comparison.lost)
    best = smallest_detectable(problems)
    if best > problems:
        return f"{problems} problems are too few: no difference on them is more than noise."
    if comparison.several:
        first = f"A difference has to show on at least {best} of {problems} problems to be more than noise."
    else:
        first = (
            f"The smallest difference that {problems} problems can show as more than noise is {best} won and none lost "
            f"({100 * best / problems:.1f} points)."
        )
    if not differing:
        return first
    if comparison.needed is None:
        return f"{first} The two models differ on {differing}, too few for that."
    needed = f"{100 * comparison.needed:.1f} points"
    if not comparison.several:
        more = round(comparison.needed * problems)
        if more == best == differing:
            return first
        needed = f"{(differing + more) // 2} to {(differing - more) // 2}, {needed}"
    return f"{first} Here the two models differ on {differing}: with as many, it takes {needed}."


PASSED = "passed"  # the verdict of a sample whose program passed its tests
