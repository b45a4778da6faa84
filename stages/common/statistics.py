"""How sure a score is: pass@k, intervals, and whether two models differ by more than noise."""

import math
from collections.abc import Sequence


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


def normal_quantile(probability: float) -> float:
    """Inverse of the standard normal distribution function."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def wilson(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
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


def mcnemar(won: int, lost: int) -> float:
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


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean difference after - before, problems drawn with replacement, pairs kept together.

    Args:
        before: a score per problem.
        after: a score of the same problems, in the same order.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: different lengths, or no problem.
    """
    import numpy as np

    if len(before) != len(after) or not before:
        raise ValueError(f"paired scores are wanted, there are {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    generator = np.random.default_rng(seed)
    means = np.array(
        [difference[generator.integers(0, len(difference), len(difference))].mean() for _ in range(resamples)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def smallest_detectable(total: int, confidence: float = 0.95) -> int:
    """Problems won, with none lost, from which McNemar's test calls a difference more than noise; total + 1: none."""
    return next((won for won in range(1, total + 1) if mcnemar(won, 0) <= 1 - confidence), total + 1)
