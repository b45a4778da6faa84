"""Score a model on benchmarks: generate completions of each problem, judge each in a sandbox.

    python -m stages.evaluate evaluate.target=base      # models/base;   reports/evaluate/base/samples.jsonl
    python -m stages.evaluate evaluate.target=tuned     # models/merged; reports/evaluate/tuned/samples.jsonl

With evaluate.quantized_base, `tuned` also scores the base as training quantized it (quantized_base.jsonl beside it).

samples.jsonl has a line per sample, in the benchmarks' order: prompt, completion, verdict, reason. Times, which
differ from run to run, are in reports/evaluate/<target>-times.json.
Generation is in stages/generation/transformers_backend.py, and the sandbox in stages/judge/sandbox.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, write_jsonl
from stages.common.core.paths import ADAPTER, BASE_MODEL, MERGED_MODEL, QUANTIZED_SAMPLES
from stages.common.core.stage import Settings, run
from stages.evaluate.scored_benchmark import (
    ScoredBenchmark,
    pass_rates,
    score_benchmark,
)
from stages.judge.benchmark import load_benchmark
from stages.judge.scoring import open_judge_pool

MODEL_FOLDERS = {"base": BASE_MODEL, "tuned": MERGED_MODEL}
WARN_SHARE = 0.05


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
    target = evaluate.target
    scored = [
        score_benchmark(name, problems, pools[name], settings, model, adapter, target)
        for name, problems in benchmarks.items()
    ]
    quantized = [
        score_benchmark(name, problems, pools[name], settings, BASE_MODEL, ADAPTER, "quantized", bare=True)
        for name, problems in benchmarks.items()
        if evaluate.quantized_base and target == "tuned"
    ]
    with atomic_folder(f"reports/evaluate/{target}") as report:
        write_jsonl(report / "samples.jsonl", (row for one in scored for row in one.rows))
        if quantized:
            write_jsonl(report / QUANTIZED_SAMPLES.name, (row for one in quantized for row in one.rows))
    for one in (*scored, *quantized):
        for kept in one.kept:
            kept.close()
    pooled = pool_scores(scored)
    print_warnings(scored, pooled)
    print_scores(target, pooled)
    metrics = {**pooled, **({"weights": "adapter"} if adapter else {})}
    if quantized:
        metrics["quantized_base"] = pool_scores(quantized)
        print_scores("base as quantized", metrics["quantized_base"])
    return {**metrics, "times": merge_times([one.times for one in (*scored, *quantized)])}


def print_scores(model: str, pooled: dict[str, Any]) -> None:
    """Print a line for each benchmark, and one for all together where there are several."""
    together = {"all": pooled} if len(pooled["benchmarks"]) > 1 else {}
    for name, metrics in {**pooled["benchmarks"], **together}.items():
        print(
            f"{model}: {name}: {metrics['passed']} of {metrics['tried']} passed, pass@1 "
            f"{metrics['pass_at_1']:.1%} (95%: {metrics['pass_at_1_low']:.1%} to {metrics['pass_at_1_high']:.1%})"
        )


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
    """Return what generation cost in all, and the seconds of each sample, in the order of the files of samples."""
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
