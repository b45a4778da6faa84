"""The evaluate stage: what it reads and writes."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from stages.common.core.errors import UserError
from stages.common.core.stage import Settings
from stages.common.rows.schema import Problem
from stages.common.text.settings import PromptSettings
from stages.evaluate.settings import EvaluateSettings, ScoringSettings
from stages.generation.completion import Completion, OnCompletion, SampleRequest
from stages.generation.settings import GenerationSettings
from stages.judge.benchmark import load_benchmark

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

SCORE = ("problems", "passed", "pass_at_1", "pass_at_1_low", "pass_at_1_high")

REQUESTED: list[list[tuple[str, int]]] = []  # prompts and sample numbers of each call of `generate`
STOP_AFTER = [-1]


def write_problems(path: Path, problems: list[Problem]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(vars(problem)) + "\n" for problem in problems))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark and a stand-in for a base model; `generate` returns TEXTS."""
    from stages.evaluate import scored_benchmark

    texts = {problem.prompt: text for problem, text in zip(PROBLEMS, TEXTS, strict=True)}

    def generate(  # STOP_AFTER[0] completions, then an interruption
        requests: Sequence[SampleRequest],
        model: Path,
        prompt: PromptSettings,
        evaluate_settings: GenerationSettings,
        on_completion: OnCompletion,
        adapter: Path | None = None,
        bare: bool = False,
    ) -> list[Completion]:
        made: list[Completion] = []
        REQUESTED.append([(request.prompt, request.sample) for request in requests])
        for index, request in enumerate(requests):
            if len(made) == STOP_AFTER[0]:
                raise KeyboardInterrupt
            text = ("    return 0" if bare else texts[request.prompt]) + "\n" * request.sample
            made.append(Completion(text, 10, "length" if text == TEXTS[2] else "eos"))
            on_completion(index, made[-1])
        return made

    REQUESTED.clear()
    STOP_AFTER[0] = -1
    monkeypatch.setattr(scored_benchmark, "generate", generate)
    monkeypatch.chdir(tmp_path)
    write_problems(tmp_path / "data/benchmarks/tiny.jsonl", PROBLEMS)
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base/config.json").write_text("{}")
    return tmp_path


def evaluate(**values: Any) -> dict[str, Any]:
    from stages.evaluate.__main__ import main

    evaluate_settings = EvaluateSettings(
        **{
            "target": "base",
            "scoring": {"tiny": ScoringSettings()},
            "workers": 2,
            "cpu_seconds": 1.0,
            **values,
        }
    )
    return main(Settings("evaluate", {"evaluate": evaluate_settings, "prompt": PromptSettings()}))


def samples(project: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (project / "reports/evaluate/base/samples.jsonl").read_text().splitlines()
    ]


def test_stage_writes_a_line_per_sample_and_its_metrics(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pooled = evaluate()
    metrics = {**pooled, **pooled["benchmarks"]["tiny"]}
    assert [pooled[key] for key in SCORE] == [metrics[key] for key in SCORE], "of one benchmark"
    rows = samples(project)
    assert [row["task_id"] for row in rows] == [problem.task_id for problem in PROBLEMS]
    assert [row["verdict"] for row in rows] == WORDS
    assert list(rows[0]) == [
        *(
            "benchmark",
            "task_id",
            "sample",
            "prompt",
            "completion",
            "verdict",
            "reason",
            "new_tokens",
            "stop",
        )
    ]
    assert rows[2]["reason"] == "AttributeError: 'list' object has no attribute 'missing'"
    assert (metrics["problems"], metrics["passed"], metrics["pass_at_1"]) == (5, 2, 0.4)
    assert (metrics["pass_at_1_low"], metrics["pass_at_1_high"]) == (0.117621, 0.769276)
    assert metrics["verdicts"] == {"exception": 1, "no_entry_point": 1, "passed": 2, "wrong_answer": 1}
    assert (metrics["truncated_share"], metrics["no_entry_point_share"]) == (0.2, 0.2)
    assert metrics["times"]["generation"]["tokens"] == 50
    assert [len(metrics["times"][key]) for key in ("cpu_s", "wall_s")] == [5, 5]
    assert metrics["isolation"]["level"] in ("A", "B")
    assert (metrics["isolation"]["why"] == "") == (metrics["isolation"]["level"] == "A")
    assert metrics["weak_sandbox"] is False
    assert metrics["weak_passed"] == 0
    assert metrics["self_test"]["canonical_passed"] == metrics["self_test"]["canonical"] == 5
    assert metrics["self_test"]["probes_passed"] == []
    printed = capsys.readouterr().out
    assert f"isolation: level {metrics['isolation']['level']}" in printed
    assert "tiny: 20% of the samples were cut at max_new_tokens" in printed
    assert "20% of the samples define no entry point" in printed


def test_benchmarks_are_scored_in_one_run_each_with_its_own_settings(project: Path) -> None:
    more = [replace(problem, task_id=f"M/{i}", parent=f"M/{i // 2}") for i, problem in enumerate(PROBLEMS)]
    write_problems(project / "data/benchmarks/more.jsonl", more)
    scoring = {
        "tiny": ScoringSettings(),
        "more": ScoringSettings(samples=2, temperature=0.5, pass_at=[2], style="chat"),
    }
    metrics = evaluate(scoring=scoring)
    assert [len(requests) for requests in REQUESTED] == [5, 10]
    assert [one["samples"] for one in metrics["benchmarks"].values()] == [1, 2]
    assert metrics["benchmarks"]["more"]["pass_at_2"] == 0.4
    assert (metrics["problems"], metrics["tried"], metrics["passed"]) == (10, 15, 6)
    assert metrics["pass_at_1"] == 0.4
    rows = samples(project)
    assert [row["benchmark"] for row in rows] == ["tiny"] * 5 + ["more"] * 10
    assert [row.get("parent") for row in rows[4:8]] == [None, "M/0", "M/0", "M/0"]
    assert evaluate(scoring=scoring, benchmarks=["more"])["benchmarks"].keys() == {"more"}
    with pytest.raises(ValueError, match=r"evaluate.benchmarks is 'mbpp': expected some of tiny, more"):
        EvaluateSettings(scoring=scoring, benchmarks=["mbpp"])


def test_a_benchmark_whose_samples_were_made_does_not_make_them_again(project: Path) -> None:
    write_problems(project / "data/benchmarks/more.jsonl", PROBLEMS)
    scoring = {"tiny": ScoringSettings(), "more": ScoringSettings(max_new_tokens=9)}
    STOP_AFTER[0] = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    STOP_AFTER[0] = -1
    evaluate(scoring=scoring)
    assert [len(requests) for requests in REQUESTED] == [5, 2, 5]


def test_the_quantized_base_is_scored_beside_the_tuned_model(project: Path) -> None:
    (project / "models/merged").mkdir()
    (project / "models/merged/config.json").write_text("{}")
    (project / "models/adapter").mkdir()
    metrics = evaluate(target="tuned", quantized_base=True)
    assert (metrics["passed"], metrics["quantized_base"]["passed"]) == (2, 0)
    folder = project / "reports/evaluate/tuned"
    assert [len((folder / name).read_text().splitlines()) for name in sorted(os.listdir(folder))] == [5, 5]
    assert "quantized_base" not in evaluate(target="base", quantized_base=True)
    assert "quantized_base" not in evaluate(target="tuned")
    assert os.listdir(folder) == ["samples.jsonl"]


@pytest.mark.slow
def test_two_runs_write_the_same_bytes_and_metrics(project: Path) -> None:
    runs = []
    for workers in (2, 1):
        metrics = evaluate(workers=workers)
        times = metrics.pop("times")
        assert times["generation"]["seconds"] >= 0
        runs.append((metrics, (project / "reports/evaluate/base/samples.jsonl").read_bytes()))
    assert runs[0] == runs[1]


def test_several_samples_per_problem_give_pass_at_k(project: Path) -> None:
    metrics = evaluate(samples=4, temperature=0.8, pass_at=[2, 4])["benchmarks"]["tiny"]
    rows = samples(project)
    assert [(row["task_id"], row["sample"]) for row in rows[:5]] == [
        *(("T/0", i) for i in range(4)),
        ("T/1", 0),
    ]
    assert [[(problem.prompt, i) for problem in PROBLEMS for i in range(4)]] == REQUESTED
    assert (metrics["problems"], metrics["samples"], metrics["passed"]) == (5, 4, 8)
    assert metrics["temperature"] == 0.8
    for k in (1, 2, 4):
        low, value, high = (metrics[f"pass_at_{k}{end}"] for end in ("_low", "", "_high"))
        assert low < value == 0.4 < high


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 2, "temperature": 0.8, "pass_at": [3]}, "evaluate.pass_at is .*pass@k needs k samples"),
        ({"samples": 2}, "evaluate.temperature is .*greedy samples are identical"),
    ],
)
def test_pass_at_k_without_enough_distinct_samples_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**values)


@pytest.mark.slow
def test_an_interrupted_generation_resumes(project: Path) -> None:
    STOP_AFTER[0] = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert not (project / "reports").exists()
    with (project / ".cache/evaluate/base/tiny/generated.jsonl").open("a") as file:
        file.write('[["T/3", 0], {"te')  # what a killed run leaves
    STOP_AFTER[0] = -1
    metrics = evaluate()
    assert [len(requests) for requests in REQUESTED] == [5, 2]
    assert metrics["times"]["generation"]["samples"] == 2
    resumed = samples(project)
    assert not list((project / ".cache/evaluate/base/tiny").iterdir())
    evaluate()
    assert len(REQUESTED[2]) == 5
    assert samples(project) == resumed


@pytest.mark.slow
def test_changed_settings_or_model_start_over_after_an_interruption(project: Path) -> None:
    STOP_AFTER[0] = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    STOP_AFTER[0] = -1
    evaluate(max_new_tokens=99)
    (project / "models/base/config.json").write_text('{"other": 1}')
    evaluate()
    assert [len(requests) for requests in REQUESTED] == [5, 5, 5]


@pytest.mark.parametrize(
    "path",
    [
        "generation/transformers_backend.py",
        "judge/sandbox/host.py",
        "common/text/prompt.py",
        "common/core/files.py",
    ],
)
def test_a_change_of_code_that_a_sample_depends_on_changes_the_journals_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    from stages.generation import journal

    monkeypatch.setattr(journal, "CODE_ROOT", tmp_path / "stages")
    code = tmp_path / "stages" / path
    code.parent.mkdir(parents=True)
    keys = set()
    for text in ("a = 1\n", "a = 2\n"):
        code.write_text(text)
        keys.add(journal.journal_key(tmp_path / "models/base", []))
    assert len(keys) == 2, f"stages/{path} is not in the key: a resumed run would keep stale samples"


def test_judged_samples_are_not_judged_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.judge.pool import Pool
    from stages.judge.verdict import Submission

    judged: list[list[str]] = []
    original = Pool.judge_all

    def watched(self: Pool, submissions: Sequence[Submission], on_verdict: Any = lambda *_: None) -> Any:
        # After the judge's self-test
        mine = list(takewhile(lambda sample: sample.completion in TEXTS, reversed(submissions)))[::-1]
        first = len(submissions) - len(mine)
        if mine:
            judged.append([sample.problem.task_id for sample in mine])

        def interrupted(index: int, verdict: Any) -> None:
            on_verdict(index, verdict)
            if len(judged) == 1 and index == first + 1:
                raise KeyboardInterrupt

        return original(self, submissions, interrupted if mine else on_verdict)

    monkeypatch.setattr(Pool, "judge_all", watched)
    with pytest.raises(KeyboardInterrupt):
        evaluate(workers=1)
    evaluate(workers=1)
    assert REQUESTED[1] == []
    assert judged == [["T/0", "T/1", "T/2", "T/3", "T/4"], ["T/2", "T/3", "T/4"]]
    assert [row["verdict"] for row in samples(project)] == WORDS


def test_a_weak_sandbox_is_refused_or_marked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="only resource limits are available here"):
        evaluate(isolation="C")
    assert not (project / "reports").exists()
    metrics = evaluate(isolation="C", allow_weak_sandbox=True)
    assert metrics["weak_sandbox"] is True
    assert "warning: judged at level C" in capsys.readouterr().out


@pytest.mark.slow
def test_results_stay_when_judging_fails(project: Path) -> None:
    evaluate()
    before = samples(project)
    write_problems(
        project / "data/benchmarks/tiny.jsonl",
        [*PROBLEMS[:4], Problem("T/4", PROBLEMS[4].prompt, "f4", "    return 0\n", SUM_TEST)],
    )
    with pytest.raises(
        UserError,
        match=r"1 of 5 canonical solutions of the benchmark fail: T/4 \(wrong_answer: an assertion after call 1",
    ):
        evaluate()
    assert samples(project) == before
    assert [path.name for path in (project / "reports/evaluate").iterdir()] == ["base"]


def test_a_missing_model_names_the_command_that_makes_it(project: Path) -> None:
    with pytest.raises(UserError, match=r"models/merged holds no model. Run `dvc repro evaluate@tuned`"):
        evaluate(target="tuned")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no data/benchmarks/other.jsonl; data/benchmarks holds tiny"),
        ('{"task_id": "a", "prom', "line 1: not JSON"),
        ('{"task_id": "a"}', "problem 1: prompt is missing or not text"),
        ("[1]", "problem 1: not a JSON object"),
        ("", "holds no problems"),
        ((json.dumps(vars(PROBLEMS[0])) + "\n") * 2, "duplicate task_id 'T/0'"),
    ],
)
def test_a_bad_benchmark_is_an_error_that_says_where(
    project: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (project / "data/benchmarks/other.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        load_benchmark("other")
    assert message in str(caught.value)


def test_an_empty_folder_of_benchmarks_says_what_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is empty: `dvc repro fetch` fills it"):
        load_benchmark("humaneval")


def test_a_benchmark_may_be_a_file_in_humanevals_shape(tmp_path: Path) -> None:
    import gzip

    text = "".join(json.dumps({**vars(problem), "extra": 1}) + "\n" for problem in PROBLEMS)
    path = tmp_path / "mine.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)
    assert load_benchmark(str(path)) == PROBLEMS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not gzip, or truncated"):
        load_benchmark(str(path))


@pytest.mark.parametrize(
    "values",
    [{"cpu_seconds": 0}, {"memory_mib": 1}, {"workers": -1}, {"isolation": "D"}, {"target": "x"}],
)
def test_settings_out_of_range_name_the_key(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^evaluate\.{next(iter(values))} is "):
        EvaluateSettings(**values)
