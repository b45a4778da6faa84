"""What gain the benchmarks can show: against simulated runs, and in words."""

import json
import math
from pathlib import Path

import pytest

from stages.common.statistics import sign_flip_test
from stages.evaluate.settings import EvaluateSettings, ScoringSettings
from stages.judge.benchmark import BENCHMARK_FOLDER
from stages.plan.power import base_rate, describe_power, detectable_gain, luck_share, paired_power

RUNS = 500


def simulated_power(groups: list[tuple[int, int]], rate: float, gain: float) -> float:
    """Return the share of simulated runs in which the sign-flip test finds the gain."""
    import numpy as np

    rng, flips, found = np.random.default_rng(0), luck_share(rate), 0
    unit = math.lcm(*(samples for _, samples in groups))
    single = all(samples == 1 for _, samples in groups)
    for _ in range(RUNS):
        differences: list[int] = []
        for problems, samples in groups:
            kind, coins = rng.random(problems), rng.binomial(samples, 0.5, (2, problems)) * (unit // samples)
            ends = np.cumsum([gain + flips / 4, flips / 4, flips])
            drawn = [kind < end for end in ends]
            differences += np.select(drawn, [unit, -unit, coins[0] - coins[1]], 0).tolist()
        found += sign_flip_test(differences)[0] < 0.05 and sum(differences) > 0
    assert not single or unit == 1
    return found / RUNS


@pytest.mark.parametrize(
    ("groups", "rate", "gain"),
    [
        ([(164, 1)], 0.05, 0.04),
        ([(164, 1), (250, 1)], 0.04, 0.04),
        ([(80, 4)], 0.2, 0.1),
        ([(60, 5), (60, 1)], 0.3, 0.1),
    ],
)
def test_the_power_is_that_of_simulated_runs(groups: list[tuple[int, int]], rate: float, gain: float) -> None:
    error = 3 * (0.25 / RUNS) ** 0.5
    assert simulated_power(groups, rate, gain) == pytest.approx(paired_power(groups, rate, gain), abs=error)


def test_without_a_gain_the_test_errs_as_rarely_as_it_says() -> None:
    assert paired_power([(414, 1)], 0.3, 0.0) <= 0.025
    assert paired_power([(414, 5)], 0.3, 0.0) == pytest.approx(0.025)


def test_more_problems_and_more_samples_show_smaller_gains() -> None:
    gains = [detectable_gain(groups, 0.3) for groups in ([(100, 1)], [(100, 4)], [(400, 1)], [(400, 4)])]
    assert all(gain is not None for gain in gains)
    few, drawn, many, both = (gain or 0.0 for gain in gains)
    assert few > drawn > many > both
    assert paired_power([(400, 1)], 0.3, many) == pytest.approx(0.8, abs=0.001)
    assert detectable_gain([(5, 1)], 0.1) is None, "5 won and none lost: p = 0.0625"


def test_the_plan_says_what_the_chosen_benchmarks_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = EvaluateSettings(scoring={"own": ScoringSettings()})
    assert describe_power(settings).startswith("not known: the benchmark own is missing")
    assert describe_power(EvaluateSettings()) == "no benchmark is chosen"
    problem = {"prompt": "def f():\n", "canonical_solution": "    pass\n", "test": "", "entry_point": "f"}
    BENCHMARK_FOLDER.mkdir(parents=True)
    lines = [
        json.dumps({**problem, "task_id": f"Own/{i // 2}x{i % 2}", "parent": f"Own/{i // 2}"})
        for i in range(828)
    ]
    (BENCHMARK_FOLDER / "own.jsonl").write_text("".join(f"{line}\n" for line in lines))
    text = describe_power(settings)
    assert text.startswith("414 problems, 1 sample: a gain of ")
    assert "times in 100 at p < 0.05" in text
    assert "passes 10.0% (assumed: reports/evaluate/base.json has no score on these); " in text
    metrics = Path("base.json")
    metrics.write_text(json.dumps({"benchmarks": {"own": {"problems": 10, "pass_at_1": 0.3}}}))
    assert base_rate(["own", "new"], metrics) == (0.3, "base.json")
    several = EvaluateSettings(scoring={"own": ScoringSettings(samples=4, temperature=0.5)})
    assert "4 samples: a gain" in describe_power(several, metrics)
    assert "more samples average out" in describe_power(several, metrics)
