"""Score a model on a benchmark: generate a completion per problem, judge each in a sandbox.

    python -m stages.evaluate evaluate.target=base      # models/base;   reports/evaluate/base/samples.jsonl
    python -m stages.evaluate evaluate.target=tuned     # models/merged; reports/evaluate/tuned/samples.jsonl

samples.jsonl has a line per sample, in the benchmark's order: prompt, completion, verdict, reason. What differs
from run to run, times and timeouts that a second run did not confirm, is in reports/evaluate/<target>-times.json.
Generation is in stages/evaluate/transformers_backend.py, and the sandbox in stages/judge/sandbox.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, write_jsonl
from stages.common.core.stage import Settings, run
from stages.common.rows.schema import Problem
from stages.common.statistics import pass_at_k_interval
from stages.evaluate.completion import Completion, SampleRequest
from stages.evaluate.generate import generate
from stages.evaluate.journal import Journal, journal_key
from stages.evaluate.sample_progress import SampleProgress
from stages.evaluate.settings import EvaluateSettings
from stages.judge.benchmark import load_benchmark
from stages.judge.pool import Pool
from stages.judge.scoring import Judgement, judge_benchmark, open_judge_pool
from stages.judge.verdict import Verdict

MODEL_FOLDERS = {"base": Path("models/base"), "tuned": Path("models/merged")}
WARN_SHARE = 0.05
Samples = list[tuple[Problem, int]]  # a problem, and a sample's number among those of the problem


def main(settings: Settings) -> dict[str, Any]:
    evaluate = settings.evaluate
    problems = load_benchmark(evaluate.benchmark)
    model = MODEL_FOLDERS[evaluate.target]
    if not (model / "config.json").exists():
        raise UserError(f"{model} holds no model. Run `dvc repro evaluate@{evaluate.target}` to make it")
    pool = open_judge_pool(evaluate)  # before minutes of generation, since it may refuse
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". "), flush=True)
    samples = [(problem, number) for problem in problems for number in range(evaluate.samples)]
    depends_on = [asdict(evaluate), asdict(settings.prompt), [asdict(problem) for problem in problems]]
    journal = Journal(evaluate.target, journal_key(model, [*depends_on, pool.isolation.level]))

    cost = generate_missing(samples, model, settings, journal)
    completions = [journal.completions[problem.task_id, number] for problem, number in samples]
    result = judge_missing(pool, problems, samples, journal)

    with atomic_folder(f"reports/evaluate/{evaluate.target}") as folder:
        write_jsonl(folder / "samples.jsonl", sample_rows(samples, completions, result.verdicts))
    metrics = compute_metrics(evaluate, samples, completions, result)
    journal.close()
    print_warnings(metrics)
    counted = "problems" if evaluate.samples == 1 else "samples"
    print(
        f"{evaluate.target}: {metrics['passed']} of {len(samples)} {counted} of {evaluate.benchmark} passed, pass@1 "
        f"{metrics['pass_at_1']:.1%} (95%: {metrics['pass_at_1_low']:.1%} to {metrics['pass_at_1_high']:.1%})"
    )
    return {**metrics, "times": {"generation": cost, **sample_times(samples, result.verdicts)}}


def generate_missing(
    samples: Samples, model: Path, settings: Settings, journal: Journal
) -> dict[str, int | float]:
    """Generate the samples missing from the journal; return their tokens and seconds."""
    started = time.perf_counter()
    missing = [(p, number) for p, number in samples if (p.task_id, number) not in journal.completions]
    done = len(samples) - len(missing)
    if done:
        print(f"{done} of {len(samples)} samples were generated before the interruption", flush=True)
    progress = SampleProgress("generated")

    def record(index: int, completion: Completion) -> None:
        problem, number = missing[index]
        journal.completed((problem.task_id, number), completion)
        progress(len(journal.completions), len(samples))

    requests = [SampleRequest(problem.prompt, number, problem.task_id) for problem, number in missing]
    made = generate(requests, model, settings.prompt, settings.evaluate, record)
    progress.close()
    tokens, seconds = sum(completion.new_tokens for completion in made), time.perf_counter() - started
    return {
        "samples": len(made),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def judge_missing(pool: Pool, problems: list[Problem], samples: Samples, journal: Journal) -> Judgement:
    """Judge the samples missing from the journal; return the verdicts of all."""
    missing = [(p.task_id, number) for p, number in samples if (p.task_id, number) not in journal.verdicts]
    texts = [(sample[0], journal.completions[sample].text) for sample in missing]
    result = judge_benchmark(
        pool, problems, texts, lambda index, verdict: journal.judged(missing[index], verdict)
    )
    verdicts = [journal.verdicts[problem.task_id, number] for problem, number in samples]
    return replace(result, verdicts=verdicts)


def sample_rows(
    samples: Samples, completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """Return the lines of samples.jsonl."""
    return [
        {
            "task_id": problem.task_id,
            "sample": number,
            "prompt": problem.prompt,
            "completion": completion.text,
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "new_tokens": completion.new_tokens,
            "stop": completion.stop,
        }
        for (problem, number), completion, verdict in zip(samples, completions, verdicts, strict=True)
    ]


def sample_times(samples: Samples, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return seconds in the order of samples.jsonl, and the first runs of samples that timed out."""
    return {
        "cpu_s": [verdict.cpu_s for verdict in verdicts],
        "wall_s": [verdict.wall_s for verdict in verdicts],
        "first_runs": [
            {"task_id": problem.task_id, "sample": number, **asdict(verdict.first_run)}
            for (problem, number), verdict in zip(samples, verdicts, strict=True)
            if verdict.first_run
        ],
    }


def compute_metrics(
    evaluate: EvaluateSettings,
    samples: Samples,
    completions: Sequence[Completion],
    result: Judgement,
) -> dict[str, Any]:
    """Return the metrics of reports/evaluate/<target>.json."""
    total = len(samples)
    passed: Counter[str] = Counter({problem.task_id: 0 for problem, _ in samples})
    for (problem, _), verdict in zip(samples, result.verdicts, strict=True):
        passed[problem.task_id] += verdict.verdict == "passed"
    rates: dict[str, float] = {}
    for k in sorted({1, *evaluate.pass_at}):
        ends = pass_at_k_interval([(evaluate.samples, count) for count in passed.values()], k)
        rates |= {
            f"pass_at_{k}{end}": round(x, 6) for end, x in zip(("", "_low", "_high"), ends, strict=True)
        }
    return {
        "benchmark": evaluate.benchmark,
        "problems": len(passed),
        "samples": evaluate.samples,
        "temperature": evaluate.temperature,
        "passed": passed.total(),
        **rates,
        "truncated_share": round(sum(c.stop == "length" for c in completions) / total, 4),
        "no_entry_point_share": round(sum(v.verdict == "no_entry_point" for v in result.verdicts) / total, 4),
        **result.facts(),
    }


def print_warnings(metrics: dict[str, Any]) -> None:
    """Print what makes the score too low, or the sandbox weak."""
    if metrics["truncated_share"] > WARN_SHARE:
        print(f"warning: {metrics['truncated_share']:.0%} of the samples were cut at evaluate.max_new_tokens")
    if metrics["no_entry_point_share"] > WARN_SHARE:
        print(
            f"warning: {metrics['no_entry_point_share']:.0%} of the samples define no entry point; see prompt.style"
        )
    if metrics["weak_sandbox"]:
        print(
            "warning: judged at level C, where a candidate can read files, use the network and start programs"
        )


if __name__ == "__main__":
    run("evaluate", main, metrics_name=lambda settings: f"evaluate/{settings.evaluate.target}")
