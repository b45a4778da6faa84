"""Base against tuned, problem by problem, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.statistics import mcnemar
from stages.report.evidence import PASSED

NOISE = 0.05  # p from which a difference counts as noise
Sample = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One problem with a sample of each model: the first that tells why it was won or lost."""

    task_id: str
    base: Sample
    tuned: Sample
    outcome: str  # won | lost | both | neither | equal (several samples, same share passed, not all or none)


@dataclass(frozen=True)
class Comparison:
    """All problems, in the benchmark's order, and the exact McNemar test of won against lost."""

    pairs: list[Pair]
    p: float

    def having(self, outcome: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.outcome == outcome]

    @property
    def won(self) -> list[Pair]:
        return self.having("won")

    @property
    def lost(self) -> list[Pair]:
        return self.having("lost")

    @property
    def beyond_noise(self) -> bool:
        return self.p < NOISE


def compare(base: Sequence[Sample], tuned: Sequence[Sample]) -> Comparison:
    """Compare two lists of samples over the problems that both hold.

    A problem is won where the tuned model passes in a greater share of its samples, lost where in a smaller.
    With one sample each, the test is McNemar's; with several it is the sign test over problems, the same sum.
    """
    of_base, of_tuned = by_problem(base), by_problem(tuned)
    pairs = [pair(task, of_base[task], of_tuned[task]) for task in of_base if task in of_tuned]
    counts = [sum(p.outcome == outcome for p in pairs) for outcome in ("won", "lost")]
    return Comparison(pairs, mcnemar(*counts))


def by_problem(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample["task_id"], []).append(sample)
    return groups


def pair(task_id: str, base: list[Sample], tuned: list[Sample]) -> Pair:
    rates = share_passed(base), share_passed(tuned)
    if rates[0] == rates[1]:
        outcome = {0.0: "neither", 1.0: "both"}.get(rates[0], "equal")
    else:
        outcome = "won" if rates[1] > rates[0] else "lost"
    return Pair(task_id, telling(base, outcome == "lost"), telling(tuned, outcome == "won"), outcome)


def share_passed(samples: Sequence[Sample]) -> float:
    return sum(sample["verdict"] == PASSED for sample in samples) / len(samples)


def telling(samples: Sequence[Sample], passed: bool) -> Sample:
    """The first sample that passed, or that did not; the first of all where there is none."""
    return next((s for s in samples if (s["verdict"] == PASSED) == passed), samples[0])


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def interval(metrics: Mapping[str, Any]) -> str:
    """The 95% interval of pass@1, as text."""
    return f"{percent(metrics['pass_at_1_low'])} to {percent(metrics['pass_at_1_high'])}"


def verdict(comparison: Comparison) -> str:
    """Whether the difference is more than noise, in one sentence that a stranger understands."""
    won, lost, p = len(comparison.won), len(comparison.lost), comparison.p
    if won == lost:
        return (
            "The two models solve the same number of problems."
            if won
            else "The two models solve the same problems."
        )
    better = "better" if won > lost else "worse"
    chance = (
        f"If both models were equally good, chance alone would give a split at least as uneven as {won} won to {lost} lost "
        f"in {chances(p)} of comparisons (exact McNemar test, p {equals(p)})"
    )
    if comparison.beyond_noise:
        return f"The tuned model is {better}, by more than noise. {chance}."
    return f"The tuned model looks {better}, but the difference is not more than noise. {chance}."


def equals(p: float) -> str:
    """A p value with its sign: `= 0.18`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def chances(p: float) -> str:
    return "fewer than 0.1%" if p < 0.001 else f"{100 * p:.1f}%" if p < 0.1 else f"{100 * p:.0f}%"
