"""How sure a score is: pass@k, intervals, and whether two models differ by more than noise."""

import math
from collections.abc import Sequence

DRAWS_AT_ONCE = 1_000_000  # of the bootstrap: 16 MB


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes: 1 - C(n-c, k) / C(n, k).

    Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv:2107.03374), equation 1.

    Args:
        samples: samples drawn for the problem, n.
        passed: how many of them passed, c.
        k: at most n.

    Raises:
        ValueError: k is above n (the estimate would be biased) or a count is out of range.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} wants at least {k} samples a problem, there are {samples}")
    if not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples} samples passed")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def pass_at_k_interval(
    counts: Sequence[tuple[int, int]], k: int, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """pass@k over problems with the ends of its interval: the mean of `pass_at_k`, low, high.

    The interval is Wilson's where every problem has one sample. Else it is a percentile bootstrap over problems, since
    samples of one problem are not independent trials; where no draw could differ (all values 0, or all 1), Wilson's
    with a problem for a trial.

    Args:
        counts: samples n and passed samples c of each problem.
        k: at most every n.
        confidence: of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: no problem, k above n for some (says for how many), or a count out of range.
    """
    short = sum(samples < k for samples, _ in counts)
    if short or not counts:
        raise ValueError(
            f"pass@{k} wants at least {k} samples a problem: {short} of {len(counts)} problems have fewer"
        )
    values = [pass_at_k(samples, passed, k) for samples, passed in counts]
    value = math.fsum(values) / len(values)
    alike = values[0] in (0.0, 1.0) and len(set(values)) == 1
    if alike or all(samples == 1 for samples, _ in counts):
        low, high = wilson_interval(round(math.fsum(values)), len(values), confidence)
    else:
        low, high = bootstrap_interval(values, confidence, seed=seed)
    return value, low, high


def normal_quantile(probability: float) -> float:
    """Inverse of the standard normal distribution function."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def wilson_interval(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209); (0, 1) for no trial at all."""
    if not 0 <= passed <= total:
        raise ValueError(f"{passed} of {total}")
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
    """Two-sided p-value of McNemar's exact test: the sign test on the problems where the two models differ.

    Args:
        won: problems that only the second model solves.
        lost: problems that only the first model solves.

    Returns:
        The chance of a split at least as uneven if both were equally likely; 1 where nothing differs.
    """
    total = won + lost
    tail = sum(math.comb(total, i) for i in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


def sign_flip_test(differences: Sequence[int], level: float = 0.05) -> tuple[float, int | None]:
    """Two-sided p-value of the exact sign-flip test, and the least sum of such differences that it calls real.

    If two models were equally good on every problem, each difference would have had either sign alike. p is the
    share of the 2^n ways to set the signs whose sum lies at least as far from 0 (Fisher 1935; Pitman 1937, Suppl.
    JRSS 4:119). With differences of -1, 0 and 1 this is McNemar's exact test.

    Args:
        differences: of each problem, in whole units (passed samples, say).
        level: p below which a difference is real.

    Returns:
        p, and the least distance of a sum from 0 with p below `level`; None where no sum gets there.
    """
    import numpy as np

    sizes = [abs(difference) for difference in differences if difference]
    chances = np.ones(1)  # of each sum from -sum(sizes) on
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    middle = sum(sizes)
    folded = chances[middle:] + chances[middle::-1]  # by distance from 0
    folded[0] /= 2
    at_least = np.cumsum(folded[::-1])[::-1]
    real = np.flatnonzero((at_least < level) & (folded > 0))
    return min(1.0, float(at_least[abs(sum(differences))])), int(real[0]) if len(real) else None


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the same order: Holm's step-down procedure.

    The i-th smallest of m is multiplied by m - i + 1, then made at least as large as the one before, at most 1. One
    below 0.05 is more than noise even if all m were looked at (Holm 1979, Scand. J. Statist. 6:65).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean, values drawn with replacement; the same seed gives the same interval."""
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
    """Percentile interval of the mean difference after - before, problems drawn with replacement, pairs kept together.

    Where no problem differs no draw does; the interval is then what Wilson's leaves for the share of problems that
    differ, to both sides.

    Args:
        before: a score per problem, 0 to 1.
        after: a score of the same problems, in the same order.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: different lengths, or no problem.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired scores are wanted, there are {len(before)} and {len(after)}")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if not any(differences):
        unseen = wilson_interval(0, len(differences), confidence)[1]
        return -unseen, unseen
    return bootstrap_interval(differences, confidence, resamples, seed)


def smallest_detectable(total: int, confidence: float = 0.95) -> int:
    """Problems won, with none lost, from which McNemar's test calls a difference more than noise; total + 1: none."""
    return next((won for won in range(1, total + 1) if mcnemar_test(won, 0) <= 1 - confidence), total + 1)
