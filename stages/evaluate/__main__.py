"""Score a model on benchmarks: generate completions of each problem, judge each in a sandbox.

    python -m stages.evaluate evaluate.target=base      # models/base;   reports/evaluate/base/samples.jsonl
    python -m stages.evaluate evaluate.target=tuned     # models/merged; reports/evaluate/tuned/samples.jsonl

samples.jsonl has a line per sample, in the benchmarks' order: prompt, completion, verdict, reason. Times, which
differ from run to run, are in reports/evaluate/<target>-times.json.
Generation is in stages/generation/transformers_backend.py, and the sandbox in stages/judge/sandbox.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, sha256_folder, write_jsonl
from stages.common.core.paths import ADAPTER, BASE_MODEL, MERGED_MODEL
from stages.common.core.stage import Settings, run
from stages.common.rows.schema import Problem, problem_cluster
from stages.common.statistics import pass_at_k_interval
from stages.common.text.settings import PromptSettings
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import Completion, SampleRequest, request_for
from stages.generation.generate import generate
from stages.generation.journal import JOURNAL_FOLDER, journal_key
from stages.judge.benchmark import load_benchmark
from stages.judge.kept import KeptResults
from stages.judge.pool import Pool
from stages.judge.sandbox.host import Isolation
from stages.judge.scoring import Judgement, judge_benchmark, open_judge_pool
from stages.judge.verdict import Verdict

MODEL_FOLDERS = {"base": BASE_MODEL, "tuned": MERGED_MODEL}
WARN_SHARE = 0.05
LINE_SECONDS = 20.0  # between two lines of progress, where there is no terminal


def main(settings: Settings) -> dict[str, Any]:
    evaluate = settings.evaluate
    adapter = ADAPTER if (evaluate.target, evaluate.weights) == ("tuned", "adapter") else None
    model = BASE_MODEL if adapter else MODEL_FOLDERS[evaluate.target]
    if not evaluate.scored:
        raise UserError("no benchmark is chosen: set `- benchmark: [humaneval]` in params.yaml")
    benchmarks = {name: load_benchmark(name) for name in evaluate.scored}
    if not (model / "config.json").exists():
        raise UserError(f"{model} holds no model. Run `dvc repro evaluate@{evaluate.target}` to make it")
    # Before minutes of generation, since they may refuse
    pools = {name: open_judge_pool(evaluate.for_benchmark(name)) for name in benchmarks}
    for isolation in {pool.isolation.level: pool.isolation for pool in pools.values()}.values():
        print(f"isolation: level {isolation.level}. {isolation.why}".rstrip(". "), flush=True)
    scored = [
        score_benchmark(name, problems, pools[name], settings, model, adapter)
        for name, problems in benchmarks.items()
    ]
    with atomic_folder(f"reports/evaluate/{evaluate.target}") as report:
        write_jsonl(report / "samples.jsonl", (row for one in scored for row in one.rows))
    for one in scored:
        for kept in one.kept:
            kept.close()
    pooled = pool_scores(scored)
    print_warnings(scored, pooled)
    for name, metrics in {**pooled["benchmarks"], **({"all": pooled} if len(scored) > 1 else {})}.items():
        print(
            f"{evaluate.target}: {name}: {metrics['passed']} of {metrics['tried']} passed, pass@1 "
            f"{metrics['pass_at_1']:.1%} (95%: {metrics['pass_at_1_low']:.1%} to {metrics['pass_at_1_high']:.1%})"
        )
    weights = {"weights": "adapter"} if adapter else {}
    return {**pooled, **weights, "times": merge_times([one.times for one in scored])}


@dataclass(frozen=True)
class ScoredBenchmark:
    """What one benchmark gave."""

    name: str
    # Of samples.jsonl
    rows: list[dict[str, Any]]
    # Samples of each problem, and how many of them passed
    counts: list[tuple[int, int]]
    # Of each problem, `problem_cluster`
    clusters: list[str]
    metrics: dict[str, Any]
    isolation: Isolation
    times: dict[str, Any]
    # To be closed once the results are written
    kept: tuple[KeptResults[Completion], KeptResults[Verdict]]


def score_benchmark(
    name: str, problems: Sequence[Problem], pool: Pool, settings: Settings, model: Path, adapter: Path | None
) -> ScoredBenchmark:
    """Generate and judge a benchmark's samples, but those that an interrupted run left."""
    evaluate = settings.evaluate.for_benchmark(name)
    prompt = settings.evaluate.prompt_for(name, settings.prompt)
    samples = [request_for(p, number) for p in problems for number in range(evaluate.samples)]
    weights = sha256_folder(adapter) if adapter else ""
    depends_on = [weights, asdict(evaluate), asdict(prompt), [asdict(problem) for problem in problems]]
    key = journal_key(model, [*depends_on, pool.isolation.level])
    folder = JOURNAL_FOLDER / evaluate.target / name
    generated = KeptResults(folder / "generated.jsonl", key, Completion)
    judged = KeptResults(folder / "judged.jsonl", key, Verdict)

    cost = generate_missing(name, samples, model, prompt, evaluate, generated, adapter)
    completions = [generated.results[sample.key] for sample in samples]
    missing = [sample for sample in samples if sample.key not in judged.results]
    texts = [(sample.name, generated.results[sample.key].text) for sample in missing]
    result = judge_benchmark(
        pool, problems, texts, evaluate.fence, lambda i, verdict: judged.keep(missing[i].key, verdict)
    )
    result = replace(result, verdicts=[judged.results[sample.key] for sample in samples])
    parents = {problem.task_id: problem.parent for problem in problems}
    rows = [
        sample_row(name, parents[sample.name], sample, completion, verdict)
        for sample, completion, verdict in zip(samples, completions, result.verdicts, strict=True)
    ]
    passed = Counter(row["task_id"] for row in rows if row["verdict"] == "passed")
    counts = [(evaluate.samples, passed[problem.task_id]) for problem in problems]
    clusters = [problem_cluster(name, problem.task_id, problem.parent) for problem in problems]
    metrics = compute_metrics(evaluate, counts, clusters, completions, result)
    times = {"cpu_s": [v.cpu_s for v in result.verdicts], "wall_s": [v.wall_s for v in result.verdicts]}
    return ScoredBenchmark(
        name=name,
        rows=rows,
        counts=counts,
        clusters=clusters,
        metrics=metrics,
        isolation=result.isolation,
        times={"generation": cost, **times},
        kept=(generated, judged),
    )


def generate_missing(
    name: str,
    samples: list[SampleRequest],
    model: Path,
    prompt: PromptSettings,
    evaluate: EvaluateSettings,
    kept: KeptResults[Completion],
    adapter: Path | None = None,
) -> dict[str, int | float]:
    """Generate the samples that were not kept; return their tokens and seconds."""
    from tqdm import tqdm

    started = time.perf_counter()
    missing = [sample for sample in samples if sample.key not in kept.results]
    done = len(samples) - len(missing)
    if done:
        print(f"{name}: {done} of {len(samples)} samples were generated before the interruption", flush=True)
    plain = {
        "bar_format": "{desc}: {n_fmt} of {total_fmt}\n",
        "mininterval": LINE_SECONDS,
        "file": sys.stdout,
        "disable": False,
    }
    options = {"leave": False} if sys.stderr.isatty() else plain
    with tqdm(total=len(samples), initial=done, desc=f"{name}: generated", **options) as progress:

        def record(index: int, completion: Completion) -> None:
            kept.keep(missing[index].key, completion)
            progress.update()

        made = generate(missing, model, prompt, evaluate, record, adapter)
    tokens, seconds = sum(completion.new_tokens for completion in made), time.perf_counter() - started
    return {"samples": len(made), "tokens": tokens, "seconds": round(seconds, 2)}


def sample_row(
    benchmark: str, parent: str, sample: SampleRequest, completion: Completion, verdict: Verdict
) -> dict[str, Any]:
    """Return a line of samples.jsonl; `parent` is there where several problems share one."""
    asked = {"task_id": sample.name, "sample": sample.sample, "prompt": sample.prompt}
    judged = {"completion": completion.text, "verdict": verdict.verdict, "reason": verdict.reason}
    found = {"benchmark": benchmark, **asked, **judged, "new_tokens": completion.new_tokens}
    return {**found, "stop": completion.stop, **({"parent": parent} if parent else {})}


def compute_metrics(
    evaluate: EvaluateSettings,
    counts: list[tuple[int, int]],
    clusters: list[str],
    completions: Sequence[Completion],
    result: Judgement,
) -> dict[str, Any]:
    """Return a benchmark's part of reports/evaluate/<target>.json."""
    total = len(completions)
    facts = result.facts()
    return {
        "problems": len(counts),
        "samples": evaluate.samples,
        "tried": total,
        "temperature": evaluate.temperature,
        "passed": sum(passed for _, passed in counts),
        **pass_rates(counts, evaluate.pass_at, clusters),
        "truncated_share": round(sum(c.stop == "length" for c in completions) / total, 4),
        "no_entry_point_share": round(sum(v.verdict == "no_entry_point" for v in result.verdicts) / total, 4),
        **{key: facts[key] for key in ("verdicts", "weak_passed", "self_test")},
    }


def pass_rates(
    counts: list[tuple[int, int]],
    ks: Sequence[int] = (),
    clusters: Sequence[str] = (),
    strata: Sequence[str] = (),
) -> dict[str, float]:
    """Return pass@1 and pass@k over problems, each with its 95% interval."""
    rates: dict[str, float] = {}
    for k in sorted({1, *ks}):
        names = (f"pass_at_{k}", f"pass_at_{k}_low", f"pass_at_{k}_high")
        found = pass_at_k_interval(counts, k, clusters=clusters, strata=strata)
        rates |= {name: round(value, 6) for name, value in zip(names, found, strict=True)}
    return rates


def pool_scores(scored: Sequence[ScoredBenchmark]) -> dict[str, Any]:
    """Return the metrics of each benchmark, and of all their problems together."""
    weakest = max((one.isolation for one in scored), key=lambda isolation: isolation.level)
    return {
        "benchmarks": {one.name: one.metrics | own_isolation(one, scored) for one in scored},
        "benchmark": " and ".join(one.name for one in scored),
        **{
            key: sum(one.metrics[key] for one in scored)
            for key in ("problems", "tried", "passed", "weak_passed")
        },
        **same_settings(scored),
        **{key: sampled_share(scored, key) for key in ("truncated_share", "no_entry_point_share")},
        **pass_rates(
            [count for one in scored for count in one.counts],
            shared_pass_at(scored),
            [cluster for one in scored for cluster in one.clusters],
            [one.name for one in scored for _ in one.counts],
        ),
        "verdicts": dict(
            sorted(sum((Counter(one.metrics["verdicts"]) for one in scored), Counter()).items())
        ),
        "self_test": merge_self_tests([one.metrics["self_test"] for one in scored]),
        "isolation": {"level": weakest.level, "why": weakest.why},
        "weak_sandbox": weakest.level == "C",
    }


def own_isolation(one: ScoredBenchmark, scored: Sequence[ScoredBenchmark]) -> dict[str, Any]:
    """Return the isolation that a benchmark was judged at, where they differ."""
    differ = len({other.isolation.level for other in scored}) > 1
    return {"isolation": {"level": one.isolation.level, "why": one.isolation.why}} if differ else {}


def same_settings(scored: Sequence[ScoredBenchmark]) -> dict[str, Any]:
    """Return samples and temperature where all benchmarks have the same."""
    values = {key: {one.metrics[key] for one in scored} for key in ("samples", "temperature")}
    return {key: found.pop() for key, found in values.items() if len(found) == 1}


def shared_pass_at(scored: Sequence[ScoredBenchmark]) -> list[int]:
    """Return each k for which all benchmarks have a pass@k."""
    ks = [{int(key[8:]) for key in one.metrics if re.fullmatch(r"pass_at_\d+", key)} for one in scored]
    return sorted(set.intersection(*ks))


def sampled_share(scored: Sequence[ScoredBenchmark], key: str) -> float:
    """Return a share of the samples of all benchmarks."""
    tried = [one.metrics["tried"] for one in scored]
    return round(sum(one.metrics[key] * n for one, n in zip(scored, tried, strict=True)) / sum(tried), 4)


def merge_self_tests(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the self-tests of all benchmarks as one: counts added, what failed together."""
    return {
        **tests[0],
        **{key: sum(test[key] for test in tests) for key in ("canonical", "canonical_passed")},
        "canonical_failed": {task: why for test in tests for task, why in test["canonical_failed"].items()},
        "weak": [task for test in tests for task in test["weak"]],
    }


def merge_times(times: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what generation cost in all, and the seconds of each sample in the order of samples.jsonl."""
    cost = {key: sum(one["generation"][key] for one in times) for key in ("samples", "tokens", "seconds")}
    rate = round(cost["tokens"] / cost["seconds"], 1) if cost["seconds"] else 0.0
    seconds = {key: [value for one in times for value in one[key]] for key in ("cpu_s", "wall_s")}
    return {"generation": {**cost, "tokens_per_second": rate}, **seconds}


def print_warnings(scored: Sequence[ScoredBenchmark], pooled: dict[str, Any]) -> None:
    """Print what makes a score too low, or the sandbox weak."""
    for one in scored:
        if (share := one.metrics["truncated_share"]) > WARN_SHARE:
            print(f"warning: {one.name}: {share:.0%} of the samples were cut at max_new_tokens")
        if (share := one.metrics["no_entry_point_share"]) > WARN_SHARE:
            print(f"warning: {one.name}: {share:.0%} of the samples define no entry point; see prompt.style")
    if pooled["weak_sandbox"]:
        print(
            "warning: judged at level C, where a candidate can read files, use the network and start programs"
        )


if __name__ == "__main__":
    run("evaluate", main, metrics_name=lambda settings: f"evaluate/{settings.evaluate.target}")
