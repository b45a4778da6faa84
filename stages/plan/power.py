"""What difference the chosen benchmarks can show, said before anything is generated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.rows.schema import problem_cluster
from stages.judge.benchmark import load_benchmark

BASE_METRICS = Path("reports/evaluate/base.json")
ASSUMED_RATE = 0.1  # pass@1 of the base, where no score of it is here
SIGNIFICANT, CHANCE = 0.05, 0.8


def describe_power(evaluate: Any, metrics_path: Path = BASE_METRICS) -> str:
    """Say which gain the pooled paired test finds in 80 of 100 runs, and what that assumes."""
    if not evaluate.scored:
        return "no benchmark is chosen"
    try:
        problems = {name: count_independent(name) for name in evaluate.scored}
    except UserError as error:
        return f"not known: {error}"
    samples = {name: evaluate.for_benchmark(name).samples for name in evaluate.scored}
    rate, source = base_rate(evaluate.scored, metrics_path)
    gain = detectable_gain(
        [(problems[name], samples[name]) for name in evaluate.scored], rate, SIGNIFICANT, CHANCE
    )
    parts = sorted(set(samples.values()))
    drawn = (
        "1 sample"
        if parts == [1]
        else f"{parts[0]} samples"
        if len(parts) == 1
        else ", ".join(f"{name} {count}" for name, count in samples.items()) + " samples"
    )
    shown = (
        "no gain shows"
        if gain is None
        else f"a gain of {100 * gain:.1f} points shows {100 * CHANCE:.0f} times in 100"
    )
    flips = luck_share(rate)
    luck = "; half of that is luck of the draw, which more samples average out" if parts[-1] > 1 else ""
    return (
        f"{sum(problems.values()):,} problems, {drawn}: {shown} at p < {SIGNIFICANT} (exact paired test over "
        f"all of them). Assumed: the base passes {rate:.1%} ({source}); besides the gain, {flips:.1%} of the "
        f"problems flip, as many won as lost{luck}"
    )


def count_independent(name: str) -> int:
    """Return a benchmark's problems, versions of one counted once."""
    return len({problem_cluster(name, problem.task_id, problem.parent) for problem in load_benchmark(name)})


def base_rate(names: list[str], path: Path) -> tuple[float, str]:
    """Return the base's pass@1 over those of the benchmarks that it was scored on, and where that is from."""
    metrics: Mapping[str, Any] = read_json(path) if path.exists() else {}
    found = [one for name in names if (one := metrics.get("benchmarks", {}).get(name))]
    if not found:
        return ASSUMED_RATE, f"assumed: {path} has no score on these"
    problems = sum(one["problems"] for one in found)
    return sum(one["pass_at_1"] * one["problems"] for one in found) / problems, str(path)


def luck_share(rate: float) -> float:
    """Return the share of problems on which two models of this pass@1 differ that are equally good, both ways: r (1 - r).

    As two samples of one problem do whose pass rates are spread as Beta(r, 1 - r). Twice the share lost, in greedy runs
    of one base and its tuned model on 164 and 250 problems: 2.4% and 4.0%, at rates of 4.3% and 3.6% (r (1 - r): 4.1%
    and 3.5%).
    """
    return rate * (1 - rate)


def paired_power(groups: Sequence[tuple[int, int]], rate: float, gain: float, level: float = 0.05) -> float:
    """Return the chance that the exact paired test finds a gain in pass@1: p below `level`, on the right side.

    Assumed: `gain` of the problems go from never to always; besides, `luck_share(rate)` of all flip with one sample.
    With one sample everywhere that is a sum over all counts of won and lost (Miettinen 1968, Biometrics 24:339). Else
    half of these problems flip for good, half are coins that several samples average out; the sum of differences over
    the root of its squares, which orders sign flips, is then taken as normal.

    Args:
        groups: problems and samples a problem of each benchmark.
        rate: pass@1 of the base.
        gain: as a share: 0.01 is one point.
    """
    import numpy as np
    from scipy.stats import binom, norm

    flips, total = luck_share(rate), sum(problems for problems, _ in groups)
    if all(samples == 1 for _, samples in groups):
        differing = np.arange(total + 1)
        chance = gain + flips
        # Most problems lost, of those that differ, with which the test still calls the rest a gain
        most_lost = binom.ppf(level / 2, differing, 0.5)
        most_lost -= 2 * binom.cdf(most_lost, differing, 0.5) >= level
        found = binom.cdf(most_lost, differing, flips / 2 / chance if chance else 0.0)
        return float(binom.pmf(differing, total, min(1.0, chance)) @ found)
    # A coin of two models with n samples differs by 2 x 1/4 / n squared on average, and there are as many as flips
    squares = sum(n * (gain + flips / 2 + flips / (2 * samples)) for n, samples in groups)
    if not squares:
        return 0.0
    mean, variance = total * gain, squares - total * gain**2
    limit = float(norm.isf(level / 2)) * squares**0.5
    return float(norm.sf((limit - mean) / variance**0.5)) if variance > 0 else float(mean > limit)


def detectable_gain(
    groups: Sequence[tuple[int, int]], rate: float, level: float = 0.05, chance: float = 0.8
) -> float | None:
    """Return the smallest gain in pass@1 that `paired_power` finds with this chance; None if there is none."""
    from scipy.optimize import brentq

    largest = 1 - rate - luck_share(rate)
    if paired_power(groups, rate, largest, level) < chance:
        return None
    return float(
        brentq(lambda gain: paired_power(groups, rate, gain, level) - chance, 0.0, largest, xtol=1e-5)
    )
