"""Score one benchmark: generate and judge its samples, but those that an interrupted run left."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stages.common.core.files import sha256_folder
from stages.common.core.stage import Settings
from stages.common.rows.schema import Problem, problem_cluster
from stages.common.statistics import pass_at_k_interval
from stages.common.text.settings import PromptSettings
from stages.evaluate.settings import EvaluateSettings
from stages.generation.completion import Completion, SampleRequest, request_for
from stages.generation.generate import generate
from stages.generation.journal import JOURNAL_FOLDER, journal_key
from stages.judge.kept import KeptResults
from stages.judge.pool import Pool
from stages.judge.sandbox.host import Isolation
from stages.judge.scoring import Judgement, judge_benchmark
from stages.judge.verdict import Verdict

LINE_SECONDS = 20.0  # between two lines of progress, where there is no terminal


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
    name: str,
    problems: Sequence[Problem],
    pool: Pool,
    settings: Settings,
    model: Path,
    adapter: Path | None,
    journal: str,
    bare: bool = False,
) -> ScoredBenchmark:
    """Generate and judge a benchmark's samples, but those that an interrupted run left.

    Args:
        journal: name of the folder where samples are kept until the caller has written them.
        adapter, bare: as `generate` takes them.
    """
    evaluate = settings.evaluate.for_benchmark(name)
    prompt = settings.evaluate.prompt_for(name, settings.prompt)
    samples = [request_for(p, number) for p in problems for number in range(evaluate.samples)]
    weights = sha256_folder(adapter) if adapter else ""
    depends_on = [weights, asdict(evaluate), asdict(prompt), [asdict(problem) for problem in problems]]
    key = journal_key(model, [*depends_on, pool.isolation.level])
    folder = JOURNAL_FOLDER / journal / name
    generated = KeptResults(folder / "generated.jsonl", key, Completion)
    judged = KeptResults(folder / "judged.jsonl", key, Verdict)

    cost = generate_missing(name, samples, model, prompt, evaluate, generated, adapter, bare)
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
    bare: bool = False,
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

        made = generate(missing, model, prompt, evaluate, record, adapter, bare)
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
