"""pass@k and its uncertainty: intervals, and tests of whether two models differ by more than noise."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

RESAMPLES = 10_000  # draws of a bootstrap
DRAWS_AT_ONCE = 1_000_000  # values that the bootstrap draws per batch: 16 MB


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
    counts: Sequence[tuple[int, int]],
    k: int,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: Sequence[str] = (),
    strata: Sequence[str] = (),
) -> tuple[float, float, float]:
    """Return mean pass@k over problems with its interval: value, low, high.

    With one sample per problem this is Wilson's interval; over several strata it is a little too wide, never too
    narrow. With several samples, or problems that share a cluster, it is a percentile bootstrap of whole clusters
    within each stratum, because samples of one problem are not independent trials.

    Args:
        counts: samples n and passed samples c of each problem.
        k: at most the smallest n.
        confidence: of the interval.
        seed: of the bootstrap.
        clusters: of each problem, if problems depend on each other; none: each by itself.
        strata: of each problem, such as its benchmark; none: one for all.

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
    independent = not clusters or len(set(clusters)) == len(values)
    if independent and all(samples == 1 for samples, _ in counts):
        return value, *wilson_interval(round(math.fsum(values)), len(values), confidence)
    return value, *mean_interval(values, (0.0, 1.0), confidence, RESAMPLES, seed, clusters, strata)


def wilson_interval(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927, JASA 22:209); (0, 1) without any trial."""
    from scipy.stats import binomtest

    if total == 0 == passed:
        return 0.0, 1.0
    ends = binomtest(passed, total).proportion_ci(confidence, method="wilson")
    return float(ends.low), float(ends.high)


def mcnemar_test(won: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a sign test where the two models differ.

    Args:
        won: problems that only the second model solves.
        lost: problems that only the first model solves.

    Returns:
        Chance of a split at least this uneven if both outcomes were equally likely; 1 if nothing differs.
    """
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


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

    at_least, possible = sum_tail(tuple(sorted(abs(difference) for difference in differences if difference)))
    significant = np.flatnonzero((at_least < level) & possible)
    p = min(1.0, float(at_least[abs(sum(differences))]))
    return p, int(significant[0]) if len(significant) else None


@lru_cache(4096)
def sum_tail(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the chance that a sum of `sizes` with random signs is at least as far from 0 as each distance.

    And whether the distance is possible; two arrays over the distances 0 ... sum(sizes).
    """
    import numpy as np

    chances = np.ones(1)  # probability of each sum, from -sum(sizes) upwards
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    middle = sum(sizes)
    folded = chances[middle:] + chances[middle::-1]  # probability by distance from 0
    folded[0] /= 2
    return np.cumsum(folded[::-1])[::-1], folded > 0


def all_pairs_tests(scores: Sequence[Sequence[int]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Return p of the sign-flip test of each pair of rows, alone and after Holm's correction for all pairs.

    The best of m rows is known only after looking at all of them: compared with each other row at the level of
    m - 1 tests, equally good rows differ far too often. Its comparisons are among the m (m - 1) / 2 of all pairs.

    Args:
        scores: [rows, problems], in whole units.

    Returns:
        By the numbers of the two rows, the smaller first.
    """
    pairs = list(itertools.combinations(range(len(scores)), 2))
    p_values = [
        sign_flip_test([b - a for a, b in zip(scores[i], scores[j], strict=True)])[0] for i, j in pairs
    ]
    return dict(zip(pairs, zip(p_values, holm_adjusted(p_values), strict=True), strict=True))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down procedure, in the same order.

    The i-th smallest of m is multiplied by m - i + 1, raised to at least the one before it, and capped at 1.
    An adjusted p below 0.05 is more than noise even though m tests were made (Holm 1979, Scand. J. Statist.
    6:65). A NaN stands for a test that was not made: it stays one and is not counted, as in R's p.adjust.
    """
    made = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        adjusted[place] = largest
    return adjusted


def bootstrap_interval(
    values: Sequence[float],
    bounds: tuple[float, float],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the mean, drawing values with replacement; reproducible by seed.

    If all values are equal, so is every draw, and an interval of no width would claim too much. A share of the
    population that was not seen among n values, at most Wilson's upper end for 0 of n, may then hold anything
    within `bounds`. For all 0 or all 1 of a share this is Wilson's own interval.
    """
    if min(values) == max(values):
        unseen = wilson_interval(0, len(values), confidence)[1]
        low, high = (values[0] + unseen * (bound - values[0]) for bound in bounds)
        return low, high
    import numpy as np
    from scipy.stats import bootstrap

    drawn = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, DRAWS_AT_ONCE // len(values)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def paired_bootstrap_interval(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    clusters: Sequence[str] = (),
    strata: Sequence[str] = (),
) -> tuple[float, float]:
    """Return the percentile interval of the mean of after - before, drawing whole problems with replacement.

    Problems of one cluster are drawn together, and each stratum keeps its number of clusters.

    Args:
        before: a score per problem, 0 to 1.
        after: scores of the same problems, in the same order.
        confidence: of the interval.
        resamples: number of draws.
        seed: of the draws; the same seed gives the same interval.
        clusters: of each problem, if problems depend on each other; none: each by itself.
        strata: of each problem, such as its benchmark; none: one for all.

    Raises:
        ValueError: different lengths, or no problem.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired scores must match one to one: {len(before)} before, {len(after)} after")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return mean_interval(differences, (-1.0, 1.0), confidence, resamples, seed, clusters, strata)


def mean_interval(
    values: Sequence[float],
    bounds: tuple[float, float],
    confidence: float,
    resamples: int,
    seed: int,
    clusters: Sequence[str],
    strata: Sequence[str],
) -> tuple[float, float]:
    """Return the percentile interval of the mean; empty `clusters` or `strata`: each by itself, one for all."""
    clusters, strata = clusters or [str(i) for i in range(len(values))], strata or [""] * len(values)
    plain = len(set(clusters)) == len(values) and len(set(strata)) == 1
    if min(values) == max(values):  # no more is known than of as many problems as there are clusters
        values, plain = values[: len(set(clusters))], True
    if plain:
        return bootstrap_interval(values, bounds, confidence, resamples, seed)
    return stratified_interval(values, clusters, strata, confidence, resamples, seed)


def stratified_interval(
    values: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile interval of the mean, drawing whole clusters with replacement within each stratum.

    A cluster with values of several strata is a member of the stratum that all of them make together. The mean is
    the drawn sum over the drawn number of values (Davison and Hinkley 1997, sections 3.2 and 3.8).
    """
    import numpy as np

    members: dict[str, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    groups: dict[frozenset[str], list[tuple[float, int]]] = {}
    for places in members.values():
        stratum = frozenset(strata[place] for place in places)
        groups.setdefault(stratum, []).append((math.fsum(values[place] for place in places), len(places)))
    if all(len({total / size for total, size in group}) == 1 for group in groups.values()):
        # Nothing varies within a stratum, and an interval of no width would claim too much
        groups = {frozenset(): [cluster for group in groups.values() for cluster in group]}
    rng = np.random.default_rng(seed)
    totals = np.zeros((resamples, 2))
    for group in groups.values():
        sums = np.asarray(group)
        batch = max(1, DRAWS_AT_ONCE // len(group))
        for start in range(0, resamples, batch):
            drawn = rng.integers(0, len(group), (min(batch, resamples - start), len(group)))
            totals[start : start + len(drawn)] += sums[drawn].sum(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [tail, 100 - tail])
    return float(low), float(high)


def smallest_detectable(total: int, confidence: float = 0.95) -> int:
    """Return the fewest problems won, none lost, that McNemar's test calls real; total + 1 if none is."""
    return next((won for won in range(1, total + 1) if mcnemar_test(won, 0) <= 1 - confidence), total + 1)
