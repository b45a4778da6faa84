"""Score a model on a benchmark: generate a completion per problem, judge each in a sandbox.

    python -m stages.evaluate evaluate.target=base      # models/base;   reports/evaluate/base/samples.jsonl
    python -m stages.evaluate evaluate.target=tuned     # models/merged; reports/evaluate/tuned/samples.jsonl

samples.jsonl has a line per sample, in the benchmark's order: prompt, completion, verdict, reason. Times, which
differ from run to run, are in reports/evaluate/<target>-times.json.
Generation is in stages/generation/transformers_backend.py, and the sandbox in stages/judge/sandbox.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, write_jsonl
from stages.common.core.stage import Settings, run
from stages.common.statistics import pass_at_k_interval
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import Completion, SampleRequest, request_for
from stages.generation.generate import generate
from stages.generation.journal import JOURNAL_FOLDER, journal_key
from stages.judge.benchmark import load_benchmark
from stages.judge.kept import KeptResults
from stages.judge.scoring import Judgement, judge_benchmark, open_judge_pool
from stages.judge.verdict import Verdict

MODEL_FOLDERS = {"base": Path("models/base"), "tuned": Path("models/merged")}
WARN_SHARE = 0.05
LINE_SECONDS = 20.0  # between two lines of progress, where there is no terminal


def main(settings: Settings) -> dict[str, Any]:
    evaluate = settings.evaluate
    problems = load_benchmark(evaluate.benchmark)
    model = MODEL_FOLDERS[evaluate.target]
    if not (model / "config.json").exists():
        raise UserError(f"{model} holds no model. Run `dvc repro evaluate@{evaluate.target}` to make it")
    pool = open_judge_pool(evaluate)  # before minutes of generation, since it may refuse
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". "), flush=True)
    samples = [request_for(p, number) for p in problems for number in range(evaluate.samples)]
    depends_on = [asdict(evaluate), asdict(settings.prompt), [asdict(problem) for problem in problems]]
    key, folder = journal_key(model, [*depends_on, pool.isolation.level]), JOURNAL_FOLDER / evaluate.target
    generated = KeptResults(folder / "generated.jsonl", key, Completion)
    judged = KeptResults(folder / "judged.jsonl", key, Verdict)

    cost = generate_missing(samples, model, settings, generated)
    completions = [generated.results[sample.key] for sample in samples]
    missing = [sample for sample in samples if sample.key not in judged.results]
    texts = [(sample.name, generated.results[sample.key].text) for sample in missing]
    result = judge_benchmark(
        pool, problems, texts, evaluate.fence, lambda i, verdict: judged.keep(missing[i].key, verdict)
    )
    result = replace(result, verdicts=[judged.results[sample.key] for sample in samples])

    with atomic_folder(f"reports/evaluate/{evaluate.target}") as report:
        write_jsonl(report / "samples.jsonl", map(sample_row, samples, completions, result.verdicts))
    metrics = compute_metrics(evaluate, samples, completions, result)
    generated.close()
    judged.close()
    print_warnings(metrics)
    counted = "problems" if evaluate.samples == 1 else "samples"
    print(
        f"{evaluate.target}: {metrics['passed']} of {len(samples)} {counted} of {evaluate.benchmark} passed, pass@1 "
        f"{metrics['pass_at_1']:.1%} (95%: {metrics['pass_at_1_low']:.1%} to {metrics['pass_at_1_high']:.1%})"
    )
    times = {"cpu_s": [v.cpu_s for v in result.verdicts], "wall_s": [v.wall_s for v in result.verdicts]}
    return {**metrics, "times": {"generation": cost, **times}}


def generate_missing(
    samples: list[SampleRequest], model: Path, settings: Settings, kept: KeptResults[Completion]
) -> dict[str, int | float]:
    """Generate the samples that were not kept; return their tokens and seconds."""
    from tqdm import tqdm

    started = time.perf_counter()
    missing = [sample for sample in samples if sample.key not in kept.results]
    done = len(samples) - len(missing)
    if done:
        print(f"{done} of {len(samples)} samples were generated before the interruption", flush=True)
    plain = {
        "bar_format": "{desc}: {n_fmt} of {total_fmt}\n",
        "mininterval": LINE_SECONDS,
        "file": sys.stdout,
    }
    options = {"leave": False} if sys.stderr.isatty() else plain
    with tqdm(total=len(samples), initial=done, desc="generated", **options) as progress:

        def record(index: int, completion: Completion) -> None:
            kept.keep(missing[index].key, completion)
            progress.update()

        made = generate(missing, model, settings.prompt, settings.evaluate, record)
    tokens, seconds = sum(completion.new_tokens for completion in made), time.perf_counter() - started
    rate = round(tokens / seconds, 1)
    return {"samples": len(made), "tokens": tokens, "seconds": round(seconds, 2), "tokens_per_second": rate}


def sample_row(sample: SampleRequest, completion: Completion, verdict: Verdict) -> dict[str, Any]:
    """Return a line of samples.jsonl."""
    asked = {"task_id": sample.name, "sample": sample.sample, "prompt": sample.prompt}
    judged = {"completion": completion.text, "verdict": verdict.verdict, "reason": verdict.reason}
    return {**asked, **judged, "new_tokens": completion.new_tokens, "stop": completion.stop}


def compute_metrics(
    evaluate: EvaluateSettings,
    samples: Sequence[SampleRequest],
    completions: Sequence[Completion],
    result: Judgement,
) -> dict[str, Any]:
    """Return the metrics of reports/evaluate/<target>.json."""
    total = len(samples)
    passed: Counter[str] = Counter()
    for sample, verdict in zip(samples, result.verdicts, strict=True):
        passed[sample.name] += verdict.verdict == "passed"
    rates: dict[str, float] = {}
    for k in sorted({1, *evaluate.pass_at}):
        found = pass_at_k_interval([(evaluate.samples, count) for count in passed.values()], k)
        names = (f"pass_at_{k}", f"pass_at_{k}_low", f"pass_at_{k}_high")
        rates |= {name: round(value, 6) for name, value in zip(names, found, strict=True)}
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
