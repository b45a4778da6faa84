"""pass@k and its uncertainty: intervals, and tests of whether two models differ by more than noise."""

import math
from collections.abc import Sequence

DRAWS_AT_ONCE = 1_000_000  # values the bootstrap draws per batch: 16 MB


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of k samples passes: 1 - C(n-c, k) / C(n, k).

    Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv:2107.03374), equation 1.

    Args:
        samples: n, the samples drawn for the problem.
        passed: c, how many of them passed.
        k: at most n.

    Raises:
        ValueError: k exceeds n (the estimate would be biased), or a count is out of range.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples per problem, found {samples}")
    if not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples} samples passed: expected a count from 0 to {samples}")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def pass_at_k_interval(
    counts: Sequence[tuple[int, int]], k: int, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return mean pass@k over problems with its interval: value, low, high.

    With one sample per problem this is Wilson's interval. With several it is a percentile bootstrap over
    problems, because samples of one problem are not independent trials. If all values are 0, or all are 1, no
    bootstrap draw would differ: the interval is then Wilson's with each problem as one trial.

    Args:
        counts: samples n and passed samples c of each problem.
        k: at most the smallest n.
        confidence: of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: no problem; k exceeds n for some problems (says how many); or a count is out of range.
    """
    too_few = sum(samples < k for samples, _ in counts)
    if too_few or not counts:
        raise ValueError(
            f"pass@{k} needs at least {k} samples per problem: {too_few} of {len(counts)} problems have fewer"
        )
    values = [pass_at_k(samples, passed, k) for samples, passed in counts]
    value = math.fsum(values) / len(values)
    all_or_none = values[0] in (0.0, 1.0) and len(set(values)) == 1
    if all_or_none or all(samples == 1 for samples, _ in counts):
        low, high = wilson_interval(round(math.fsum(values)), len(values), confidence)
    else:
        low, high = bootstrap_interval(values, confidence, seed=seed)
    return value, low, high


def normal_quantile(probability: float) -> float:
    """Return the inverse of the standard normal distribution function."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def wilson_interval(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927, JASA 22:209); (0, 1) without any trial."""
    if not 0 <= passed <= total:
        raise ValueError(f"{passed} of {total} passed: expected a count from 0 to {total}")
    if total == 0:
        return 0.0, 1.0
    z = normal_quantile(0.5 + confidence / 2)
    share = passed / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if passed == 0 else max(0.0, middle - half)
    return low, 1.0 if passed == total else min(1.0, middle + half)


def mcnemar_test(won: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a sign test where the two models differ.

    Args:
        won: problems that only the second model solves.
        lost: problems that only the first model solves.

    Returns:
        Chance of a split at least this uneven if both outcomes were equally likely; 1 if nothing differs.
    """
    total = won + lost
    tail = sum(math.comb(total, i) for i in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


def sign_flip_test(differences: Sequence[int], level: float = 0.05) -> tuple[float, int | None]:
    """Return the two-sided p of the exact sign-flip test, and the smallest sum it would call significant.

    If two models were equally good on every problem, both signs of each difference would be equally likely. p
    is the share of the 2^n sign assignments whose sum lies at least as far from 0 (Fisher 1935; Pitman 1937,
    Suppl. JRSS 4:119). With differences of -1, 0 and 1 this is McNemar's exact test.

    Args:
        differences: one per problem, in whole units (passed samples, for example).
        level: p below which a difference is significant.

    Returns:
        p, and the smallest distance of a sum from 0 with p below `level`; None if no sum reaches it.
    """
    import numpy as np

    sizes = [abs(difference) for difference in differences if difference]
    chances = np.ones(1)  # probability of each sum, from -sum(sizes) upwards
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    middle = sum(sizes)
    folded = chances[middle:] + chances[middle::-1]  # probability by distance from 0
    folded[0] /= 2
    at_least = np.cumsum(folded[::-1])[::-1]
    significant = np.flatnonzero((at_least < level) & (folded > 0))
    p = min(1.0, float(at_least[abs(sum(differences))]))
    return p, int(significant[0]) if len(significant) else None


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down procedure, in the same order.

    The i-th smallest of m is multiplied by m - i + 1, raised to at least the one before it, and capped at 1.
    An adjusted p below 0.05 is more than noise even though m tests were made (Holm 1979, Scand. J. Statist.
    6:65).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean, drawing values with replacement; reproducible by seed."""
    import numpy as np

    drawn = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, DRAWS_AT_ONCE // len(drawn))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = drawn[generator.integers(0, len(drawn), (rows, len(drawn)))].mean(
            axis=1
        )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the mean of after - before, drawing whole problems with replacement.

    If no problem differs, no draw does either: the interval is then plus and minus Wilson's upper end for the
    share of problems that differ.

    Args:
        before: a score per problem, 0 to 1.
        after: scores of the same problems, in the same order.
        confidence: of the interval.
        resamples: number of draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: different lengths, or no problem.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired scores must match one to one: {len(before)} before, {len(after)} after")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if not any(differences):
        unseen = wilson_interval(0, len(differences), confidence)[1]
        return -unseen, unseen
    return bootstrap_interval(differences, confidence, resamples, seed)


def smallest_detectable(total: int, confidence: float = 0.95) -> int:
    """Return the fewest problems won, none lost, that McNemar's test calls real; total + 1 if none is."""
    return next((won for won in range(1, total + 1) if mcnemar_test(won, 0) <= 1 - confidence), total + 1)
