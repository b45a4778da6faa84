"""The evaluate stage: what it reads, what it writes, and the statistics of its figures."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stages.common.errors import UserError
from stages.common.prompt_settings import PromptSettings
from stages.common.schema import Problem
from stages.common.stage import Settings
from stages.common.statistics import mcnemar, paired_bootstrap, pass_at_k, smallest_detectable, wilson
from stages.evaluate import benchmark
from stages.evaluate.progress import Progress
from stages.evaluate.settings import EvaluateSettings

SUM_TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
PROBLEMS = [
    Problem(
        f"T/{i}",
        f'def f{i}(xs):\n    """Sum of xs."""\n',
        f"f{i}",
        "    return sum(xs)\n",
        SUM_TEST,
    )
    for i in range(5)
]
TEXTS = ["    return sum(xs)", "    return 0", "    return xs.missing", "", "    return sum(xs) if xs else 0"]
WORDS = ["passed", "wrong_answer", "exception", "no_entry_point", "passed"]


def write_problems(path: Path, problems: list[Problem]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(vars(problem)) + "\n" for problem in problems))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark and what looks like a base model; generation gives TEXTS."""
    from stages.evaluate import __main__ as stage
    from stages.evaluate.generate import Completion

    def written(prompts: list[str], *_: object) -> list[Completion]:
        assert prompts == [problem.prompt for problem in PROBLEMS]
        return [Completion(text, 10, "length" if i == 2 else "eos") for i, text in enumerate(TEXTS)]

    monkeypatch.setattr(stage, "generate", written)
    monkeypatch.chdir(tmp_path)
    write_problems(tmp_path / "data/benchmarks/tiny.jsonl", PROBLEMS)
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base/config.json").write_text("{}")
    return tmp_path


def evaluate(**values: Any) -> dict[str, Any]:
    from stages.evaluate.__main__ import main

    chosen = EvaluateSettings(
        **{"target": "base", "benchmark": "tiny", "workers": 2, "cpu_seconds": 1.0, **values}
    )
    return main(Settings("evaluate", {"evaluate": chosen, "prompt": PromptSettings()}))


def samples(project: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (project / "reports/evaluate/base/samples.jsonl").read_text().splitlines()
    ]


def test_stage_writes_a_line_a_sample_and_its_metrics(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate()
    rows = samples(project)
    assert [row["task_id"] for row in rows] == [problem.task_id for problem in PROBLEMS]
    assert [row["verdict"] for row in rows] == WORDS
    assert list(rows[0]) == [
        *(
            "task_id",
            "sample",
            "prompt",
            "completion",
            "verdict",
            "reason",
            "cpu_s",
            "wall_s",
            "new_tokens",
            "stop",
        )
    ]
    assert rows[2]["reason"] == "AttributeError: 'list' object has no attribute 'missing'"
    assert (metrics["problems"], metrics["passed"], metrics["pass_at_1"]) == (5, 2, 0.4)
    assert (metrics["pass_at_1_low"], metrics["pass_at_1_high"]) == (0.117621, 0.769276)
    assert metrics["verdicts"] == {"exception": 1, "no_entry_point": 1, "passed": 2, "wrong_answer": 1}
    assert (metrics["truncated_share"], metrics["no_entry_point_share"]) == (0.2, 0.2)
    assert metrics["generation"]["tokens"] == 50
    assert metrics["isolation"]["level"] in ("A", "B")
    assert (metrics["isolation"]["why"] == "") == (metrics["isolation"]["level"] == "A")
    assert metrics["weak_sandbox"] is False
    assert metrics["self_test"]["canonical_passed"] == metrics["self_test"]["canonical"] == 5
    assert metrics["self_test"]["probes_passed"] == []
    printed = capsys.readouterr().out
    assert f"isolation: level {metrics['isolation']['level']}" in printed
    assert "20% of the samples ran into evaluate.max_new_tokens" in printed
    assert "20% of the samples define no entry point" in printed


def test_two_runs_differ_in_nothing_but_times(project: Path) -> None:
    def timeless() -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in ("cpu_s", "wall_s")} for row in samples(project)]

    evaluate()
    first = timeless()
    evaluate(workers=1)
    assert timeless() == first


def test_a_weak_sandbox_is_refused_or_marked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="only resource limits are to be had here"):
        evaluate(isolation="C")
    assert not (project / "reports").exists()
    metrics = evaluate(isolation="C", allow_weak_sandbox=True)
    assert metrics["weak_sandbox"] is True
    assert "warning: judged at level C" in capsys.readouterr().out


def test_nothing_is_replaced_where_judging_fails(project: Path) -> None:
    evaluate()
    before = samples(project)
    write_problems(
        project / "data/benchmarks/tiny.jsonl",
        [*PROBLEMS[:4], Problem("T/4", PROBLEMS[4].prompt, "f4", "    return 0\n", SUM_TEST)],
    )
    with pytest.raises(
        UserError, match=r"1 of 5 canonical solutions .* T/4 \(wrong_answer: an assertion after call 1"
    ):
        evaluate()
    assert samples(project) == before
    assert [path.name for path in (project / "reports/evaluate").iterdir()] == ["base"]


def test_a_missing_model_names_the_command_that_makes_it(project: Path) -> None:
    with pytest.raises(UserError, match=r"models/merged holds no model: `dvc repro evaluate@tuned`"):
        evaluate(target="tuned")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no data/benchmarks/other.jsonl; data/benchmarks holds tiny"),
        ('{"task_id": "a", "prom', "line 1: not JSON"),
        ('{"task_id": "a"}', "problem 1: prompt is missing or no text"),
        ("[1]", "problem 1: not a JSON object"),
        ("", "holds no problem"),
        ((json.dumps(vars(PROBLEMS[0])) + "\n") * 2, "the task_id 'T/0' comes twice"),
    ],
)
def test_a_bad_benchmark_is_named(project: Path, content: str | None, message: str) -> None:
    if content is not None:
        (project / "data/benchmarks/other.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        benchmark.load("other")
    assert message in str(caught.value)


def test_an_empty_folder_of_benchmarks_says_what_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is empty: `dvc repro fetch` fills it"):
        benchmark.load("humaneval")


def test_benchmarks_in_humanevals_shape_may_be_files(tmp_path: Path) -> None:
    import gzip

    text = "".join(json.dumps({**vars(problem), "extra": 1}) + "\n" for problem in PROBLEMS)
    path = tmp_path / "mine.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)
    assert benchmark.load(str(path)) == PROBLEMS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not gzipped JSON lines"):
        benchmark.load(str(path))


def test_progress_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("generated", seconds=1000)
    for done in range(1, 4):
        progress(done, 3)
    progress.close()
    assert capsys.readouterr().out == "generated: 3 of 3\n"


@pytest.mark.parametrize(
    "values",
    [{"cpu_seconds": 0}, {"memory_mib": 1}, {"workers": -1}, {"isolation": "D"}, {"target": "x"}],
)
def test_settings_out_of_range_name_the_key(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^evaluate\.{next(iter(values))} is "):
        EvaluateSettings(**values)


def brute_pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (10, 3, 1), (10, 3, 5), (200, 7, 100), (20, 20, 20)]
)
def test_pass_at_k_is_the_unbiased_estimator(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(brute_pass_at_k(n, c, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (5, 6, 1), (5, 1, 0)])
def test_pass_at_k_refuses_what_it_cannot_tell(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        pass_at_k(n, c, k)


@pytest.mark.parametrize(("passed", "total"), [(0, 164), (7, 164), (12, 164), (82, 164), (164, 164), (1, 3)])
def test_wilson_agrees_with_scipy(passed: int, total: int) -> None:
    from scipy.stats import binomtest

    other = binomtest(passed, total).proportion_ci(method="wilson")
    assert wilson(passed, total) == pytest.approx((other.low, other.high), abs=1e-9)


def test_wilson_golden_and_edges() -> None:
    low, high = wilson(7, 164)
    assert (round(low, 4), round(high, 4)) == (0.0208, 0.0855)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match="11 of 10"):
        wilson(11, 10)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (6, 0), (8, 3), (5, 5), (0, 12), (40, 22)])
def test_mcnemar_is_the_exact_sign_test(won: int, lost: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(won, lost) == mcnemar(lost, won)


def test_smallest_detectable_difference() -> None:
    assert smallest_detectable(164) == 6  # 2 / 2**6 is the first below 5%
    assert smallest_detectable(3) == 4


def test_bootstrap_keeps_pairs_together_and_is_seeded() -> None:
    before, after = [0.0] * 164, [1.0] * 16 + [0.0] * 148
    low, high = paired_bootstrap(before, after)
    assert (low, high) == paired_bootstrap(before, after)
    few = [paired_bootstrap(before, after, resamples=20, seed=seed) for seed in range(4)]
    assert len(set(few)) > 1
    half = 1.96 * math.sqrt(0.0976 * 0.9024 / 164)  # the normal approximation of the same interval
    assert low == pytest.approx(16 / 164 - half, abs=0.01)
    assert high == pytest.approx(16 / 164 + half, abs=0.01)
    same = [float(i % 2) for i in range(50)]
    assert paired_bootstrap(same, same) == (0.0, 0.0)  # unpaired draws would spread
    with pytest.raises(ValueError, match="paired scores"):
        paired_bootstrap([1.0], [])
