"""pass@k, intervals and tests: each formula against its definition or against scipy."""

import itertools
import math
import random

import numpy as np
import pytest

from stages.common.statistics import (
    all_pairs_tests,
    bootstrap_interval,
    holm_adjusted,
    mcnemar_test,
    paired_bootstrap_interval,
    pass_at_k,
    pass_at_k_interval,
    sign_flip_test,
    smallest_detectable,
    wilson_interval,
)


def brute_pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (10, 3, 1), (10, 3, 5), (200, 7, 100), (20, 20, 20)]
)
def test_pass_at_k_is_the_unbiased_estimator(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(brute_pass_at_k(n, c, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (5, 6, 1), (5, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (7, 164, 0.0208, 0.0855),
    ],
)
def test_wilson_gives_published_intervals(passed: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(passed, total) == pytest.approx((low, high), abs=5e-5)


def test_the_edges_of_wilson() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match="11"):
        wilson_interval(11, 10)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (6, 0), (8, 3), (5, 5), (0, 12), (40, 22)])
def test_mcnemar_is_the_exact_sign_test(won: int, lost: int) -> None:
    tail = sum(math.comb(won + lost, i) for i in range(min(won, lost) + 1))
    assert mcnemar_test(won, lost) == pytest.approx(min(1.0, 2 * tail / 2 ** (won + lost)), abs=1e-12)
    assert mcnemar_test(won, lost) == mcnemar_test(lost, won)


def test_smallest_detectable_difference() -> None:
    assert smallest_detectable(164) == 6  # 2 / 2**6 is the first below 5%
    assert smallest_detectable(3) == 4


def test_bootstrap_keeps_pairs_together_and_is_seeded() -> None:
    before, after = [0.0] * 164, [1.0] * 16 + [0.0] * 148
    low, high = paired_bootstrap_interval(before, after)
    assert (low, high) == paired_bootstrap_interval(before, after)
    few = [paired_bootstrap_interval(before, after, resamples=20, seed=seed) for seed in range(4)]
    assert len(set(few)) > 1
    half = 1.96 * math.sqrt(0.0976 * 0.9024 / 164)  # the normal approximation of the same interval
    assert low == pytest.approx(16 / 164 - half, abs=0.01)
    assert high == pytest.approx(16 / 164 + half, abs=0.01)
    same = [float(i % 2) for i in range(50)]
    # Unpaired draws would spread; no draw differs
    assert paired_bootstrap_interval(same, same) == (-wilson_interval(0, 50)[1], wilson_interval(0, 50)[1])
    few_differ = paired_bootstrap_interval([0.0] * 50, [1.0] + [0.0] * 49)
    assert few_differ[0] == 0.0
    assert 0.02 < few_differ[1] < wilson_interval(3, 50)[1]
    with pytest.raises(ValueError, match="paired scores"):
        paired_bootstrap_interval([1.0], [])


def test_pass_at_is_the_mean_of_the_estimator() -> None:
    counts = [(5, 0), (5, 1), (5, 5), (8, 3)]
    for k in (1, 3, 5):
        value, low, high = pass_at_k_interval(counts, k)
        assert value == pytest.approx(sum(brute_pass_at_k(n, c, k) for n, c in counts) / 4, abs=1e-12)
        assert 0 <= low < value < high <= 1
    assert pass_at_k_interval(counts, 3) == pass_at_k_interval(counts, 3)
    assert pass_at_k_interval(counts, 1, seed=1)[0] == pass_at_k_interval(counts, 1)[0]


def test_the_interval_of_one_sample_is_wilson_s() -> None:
    counts = [(1, 1)] * 7 + [(1, 0)] * 157
    assert pass_at_k_interval(counts, 1) == (7 / 164, *wilson_interval(7, 164))
    assert pass_at_k_interval(counts, 1, confidence=0.8)[1:] == wilson_interval(7, 164, 0.8)


def test_the_interval_of_many_samples_is_over_problems() -> None:
    """Samples of a problem that all agree carry no more information than one of them."""
    counts = [(50, 50)] * 20 + [(50, 0)] * 80
    _, low, high = pass_at_k_interval(counts, 1)
    half = 1.96 * math.sqrt(0.2 * 0.8 / 100)
    assert low == pytest.approx(0.2 - half, abs=0.015)
    assert high == pytest.approx(0.2 + half, abs=0.015)


@pytest.mark.parametrize(("passed", "value"), [(0, 0.0), (2, 0.5), (4, 1.0)])
def test_equal_rates_have_an_interval_of_some_width(passed: int, value: float) -> None:
    """An unseen share of problems, 11.35% at most where 30 are alike, may pass always or never."""
    unseen = wilson_interval(0, 30)[1]
    assert unseen == pytest.approx(0.1135, abs=5e-5)
    got = pass_at_k_interval([(4, passed)] * 30, 1)
    assert got == pytest.approx((value, value * (1 - unseen), value * (1 - unseen) + unseen))
    if value != 0.5:
        assert got[1:] == pytest.approx(wilson_interval(int(30 * value), 30))
    # All problems won: the difference of 1 is not certain either
    assert paired_bootstrap_interval([0.0] * 30, [1.0] * 30) == pytest.approx((1 - 2 * unseen, 1.0))


def test_the_interval_covers_the_truth_where_samples_of_a_problem_agree() -> None:
    """20 samples of each of 60 problems, whose true rates differ: 95% of intervals hold the true mean.

    Wilson's over the pooled samples, as if all were independent, holds it about half the time.
    """
    generator = np.random.default_rng(0)
    rates = generator.beta(
        0.3, 0.7, size=(150, 60)
    )  # of 150 benchmarks drawn from problems whose mean rate is 0.3
    passed = generator.binomial(20, rates)
    ours = [bootstrap_interval(list(row / 20), (0.0, 1.0), resamples=400) for row in passed]
    pooled = [wilson_interval(int(row.sum()), 1200) for row in passed]
    covered, pooled_covered = (np.mean([low <= 0.3 <= high for low, high in ends]) for ends in (ours, pooled))
    assert covered > 0.9
    assert pooled_covered < 0.7


def test_k_above_n_is_refused_with_the_number_of_problems() -> None:
    with pytest.raises(
        ValueError, match=r"pass@5 needs at least 5 samples per problem: 2 of 3 problems have fewer"
    ):
        pass_at_k_interval([(5, 1), (4, 1), (1, 1)], 5)
    with pytest.raises(ValueError, match="0 of 0 problems"):
        pass_at_k_interval([], 1)


def test_bootstrap_is_the_percentiles_of_means_drawn_with_replacement() -> None:
    values = np.random.default_rng(5).random(60)
    draws = np.random.default_rng(7).choice(values, size=(20_000, 60)).mean(axis=1)
    expected = tuple(np.quantile(draws, [0.025, 0.975]))
    assert bootstrap_interval(list(values), (0.0, 1.0)) == pytest.approx(expected, abs=0.004)
    # Drawn in several batches
    several = bootstrap_interval(list(values), (0.0, 1.0), resamples=33_333)
    assert several == pytest.approx(expected, abs=0.004)


def brute_holm(p_values: list[float]) -> list[float]:
    """The closure of Bonferroni's test: a point counts where every set of points that holds it is rejected."""
    places = range(len(p_values))
    sets = [group for size in places for group in itertools.combinations(places, size + 1)]
    return [
        max(min(1.0, len(group) * min(p_values[j] for j in group)) for group in sets if i in group)
        for i in places
    ]


def test_holm_is_its_definition() -> None:
    assert holm_adjusted([]) == []
    assert holm_adjusted([0.03]) == [0.03]
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # Holm 1979's scheme by hand
    grid = [0.001, 0.01, 0.02, 0.04, 0.5]
    for p_values in itertools.product(grid, repeat=4):
        adjusted = holm_adjusted(list(p_values))
        assert adjusted == pytest.approx(brute_holm(list(p_values)))
        assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_a_test_without_a_p_is_not_counted() -> None:
    """R: p.adjust(c(NaN, 0.01, 0.04, NaN), "holm") gives NaN 0.02 0.04 NaN."""
    adjusted = holm_adjusted([math.nan, 0.01, 0.04, math.nan])
    assert adjusted[1:3] == pytest.approx([0.02, 0.04])
    assert math.isnan(adjusted[0])
    assert math.isnan(adjusted[3])
    assert holm_adjusted([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)


def test_the_best_of_many_equal_models_rarely_differs_from_any() -> None:
    """Sweeps of 32 equally good models: some point differs from the best in at most 5% of them.

    With a correction for the 31 comparisons with the best alone, which was chosen by its score, it is over 10%.
    """
    generator = np.random.default_rng(1)
    difficulty = generator.beta(0.6, 0.6, size=(60, 1, 60))  # 60 sweeps of 60 problems
    sweeps = (generator.random((60, 32, 60)) < difficulty).astype(int)
    all_pairs, best_alone = 0, 0
    for sweep in sweeps.tolist():
        best = max(range(32), key=lambda i: sum(sweep[i]))
        tests = [test for pair, test in all_pairs_tests(sweep).items() if best in pair]
        all_pairs += any(adjusted < 0.05 for _, adjusted in tests)
        best_alone += any(p < 0.05 for p in holm_adjusted([p for p, _ in tests]))
    assert all_pairs <= 3
    assert best_alone >= 6


@pytest.mark.parametrize("seed", range(6))
def test_sign_flip_is_every_way_to_set_the_signs(seed: int) -> None:
    generator = random.Random(seed)
    differences = [generator.randint(-4, 4) for _ in range(10)]
    sums = [sum(signs) for signs in itertools.product(*((d, -d) for d in differences))]
    p = sum(abs(s) >= abs(sum(differences)) for s in sums) / len(sums)
    reach = [s for s in sums if s >= 0 and sum(abs(t) >= s for t in sums) / len(sums) < 0.05]
    assert sign_flip_test(differences) == (pytest.approx(p, abs=1e-12), min(reach, default=None))


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (6, 0), (8, 3), (5, 5), (0, 12), (40, 22)])
def test_sign_flip_of_ones_is_mcnemar(won: int, lost: int) -> None:
    p, needed = sign_flip_test([1] * won + [-1] * lost + [0] * 20)
    assert p == pytest.approx(mcnemar_test(won, lost), abs=1e-12)
    splits = [
        d
        for d in range(won + lost, -1, -2)
        if mcnemar_test((won + lost + d) // 2, (won + lost - d) // 2) < 0.05
    ]
    assert needed == min(splits, default=None)
    # The unit does not matter
    assert sign_flip_test([2] * won + [-2] * lost)[0] == pytest.approx(p, abs=1e-12)


def test_the_interval_of_clusters_in_strata_holds_the_truth() -> None:
    """Versions of one problem agree, so drawing each by itself would claim too much."""
    rng = np.random.default_rng(0)
    clusters = [f"a{i // 5}" for i in range(100)] + [f"b{i}" for i in range(40)]
    strata = ["a"] * 100 + ["b"] * 40
    truth = (100 * 0.3 + 40 * 0.1) / 140
    covered = {"clusters": 0, "alone": 0}
    for _ in range(200):
        after = [*np.repeat(rng.random(20) < 0.3, 5), *(rng.random(40) < 0.1)]
        scores = [float(one) for one in after]
        for name, of in (("clusters", clusters), ("alone", [str(i) for i in range(140)])):
            low, high = paired_bootstrap_interval(
                [0.0] * 140, scores, resamples=400, clusters=of, strata=strata
            )
            covered[name] += low <= truth <= high
    assert 180 <= covered["clusters"] <= 200
    assert covered["alone"] < 150


def test_an_interval_keeps_the_size_of_each_stratum() -> None:
    """A stratum whose problems all behave alike adds nothing to the width, unless all strata are like that."""
    before, after = [0.0] * 20, [1.0] * 9 + [0.0] * 11
    strata = ["a"] * 10 + ["b"] * 10
    low, high = paired_bootstrap_interval(before, after, strata=strata)
    wide = paired_bootstrap_interval(before, after)
    assert wide[0] < 0.3 < low < 0.45 < high <= 0.5 < 0.6 < wide[1]
    after = [1.0] * 10 + [0.0] * 10
    low, high = paired_bootstrap_interval(before, after, strata=strata)
    assert low < 0.35 < 0.65 < high


def test_equal_clusters_say_no_more_than_as_many_problems() -> None:
    few = paired_bootstrap_interval([0.0] * 3, [1.0] * 3)
    assert paired_bootstrap_interval([0.0] * 30, [1.0] * 30, clusters=[str(i % 3) for i in range(30)]) == few


def test_a_scores_interval_draws_versions_of_a_problem_together() -> None:
    counts = [(1, int(i < 60)) for i in range(240)]
    clusters = [str(i // 6) for i in range(240)]  # 40 problems of six equal versions
    strata = ["a"] * 120 + ["b"] * 120
    value, low, high = pass_at_k_interval(counts, 1, clusters=clusters)
    assert value == 0.25
    expected = wilson_interval(10, 40)
    assert (low, high) == pytest.approx(expected, abs=0.02)
    _, low_kept, high_kept = pass_at_k_interval(counts, 1, clusters=clusters, strata=strata)
    assert low_kept > low, "half of a passes, none of b: drawing benchmarks too would add what does not vary"
    assert high_kept < high
    assert pass_at_k_interval(counts, 1, clusters=list(map(str, range(240))))[1:] == wilson_interval(60, 240)
