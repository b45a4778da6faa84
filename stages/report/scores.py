"""pass@k of both models: on all problems, and on the clean part, those that no training row resembles."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.common.comparison import (
    COMPARED_TARGETS,
    Comparison,
    compare_by_benchmark,
    compare_models,
    describe_verdict,
    difference_interval,
    pass_counts,
    problem_key,
)
from stages.common.page.formats import format_p_value, format_percent, format_points
from stages.common.statistics import pass_at_k_interval, smallest_detectable
from stages.report.inputs import ReportInputs, judged_in_weak_sandbox

INTERVAL_SUFFIXES = ("", "_low", "_high")
Interval = Sequence[float]  # value, low, high


def compare_clean_part(inputs: ReportInputs) -> Comparison | None:
    """Compare the models on the clean part; None if it is unknown or holds no problem."""
    base, tuned = inputs.samples["base"], inputs.samples["tuned"]
    if inputs.near is None or {problem_key(sample) for sample in base} <= set(inputs.near):
        return None
    return compare_models(base, tuned, without=inputs.near)


def shared_ks(evaluations: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return each k for which both models have a pass@k, on all problems or on those of one benchmark."""
    base, tuned = evaluations.values()
    return sorted(int(k) for key in base if key in tuned for k in re.findall(r"^pass_at_(\d+)$", key))


def score_table(
    inputs: ReportInputs, comparison: Comparison, clean: Comparison | None
) -> list[dict[str, str]]:
    """Return a line for each k and each set of problems."""
    lines = benchmark_lines(inputs)
    for k in shared_ks(inputs.evaluations):
        intervals = {target: reported_interval(m, k) for target, m in inputs.evaluations.items()}
        lines.append(score_line(k, f"all {len(comparison.problems)}", comparison, intervals))
        if clean:
            lines.append(
                score_line(
                    k,
                    f"{len(clean.problems)} that no training row resembles",
                    clean,
                    compute_intervals(clean, k),
                )
            )
    return lines


def benchmark_lines(inputs: ReportInputs) -> list[dict[str, str]]:
    """Return a line for each benchmark and each k of its own, where there are several; p also after Holm's."""
    parts = compare_by_benchmark(inputs.samples["base"], inputs.samples["tuned"])
    lines = []
    for name, (comparison, p) in parts.items() if len(parts) > 1 else ():
        own = {target: metrics["benchmarks"][name] for target, metrics in inputs.evaluations.items()}
        for k in shared_ks(own):
            intervals = {target: reported_interval(metrics, k) for target, metrics in own.items()}
            line = score_line(k, f"{name}, {len(comparison.problems)}", comparison, intervals)
            holm = f" (Holm {format_p_value(p).removeprefix('= ')})" if k == 1 else ""
            lines.append({**line, "p": line["p"] + holm})
    return lines


def reported_interval(evaluation: Mapping[str, Any], k: int) -> Interval:
    """Return pass@k with its interval from the metrics of evaluate."""
    return [evaluation[f"pass_at_{k}{suffix}"] for suffix in INTERVAL_SUFFIXES]


def compute_intervals(comparison: Comparison, k: int) -> dict[str, Interval]:
    """Return each target's pass@k with its interval, computed from the compared problems."""
    problems = comparison.problems
    clusters, strata = [p.cluster for p in problems], [p.benchmark for p in problems]
    return {
        target: pass_at_k_interval(pass_counts(problems, target), k, clusters=clusters, strata=strata)
        for target in COMPARED_TARGETS
    }


def score_line(
    k: int, problems: str, comparison: Comparison, intervals: Mapping[str, Interval]
) -> dict[str, str]:
    difference = (
        (comparison.difference, comparison.low, comparison.high)
        if k == 1
        else difference_interval(comparison.problems, k)
    )
    return {
        "score": f"pass@{k}",
        "problems": problems,
        **{target: format_interval(intervals[target], format_percent) for target in COMPARED_TARGETS},
        "difference": format_interval(difference, format_points),
        "split": f"{len(comparison.won)} / {len(comparison.lost)}" if k == 1 else "",
        "p": format_p_value(comparison.p).removeprefix("= ") if k == 1 else "",
    }


def format_interval(interval: Interval, form: Callable[[float], str]) -> str:
    value, low, high = map(form, interval)
    return f"{value} ({low} to {high})"


def report_metrics(inputs: ReportInputs, comparison: Comparison, clean: Comparison | None) -> dict[str, Any]:
    """Return the metrics of reports/report.json. Rates and differences are shares: 0.01 is one point."""
    problems = len(comparison.problems)
    best = smallest_detectable(comparison.independent)
    here = comparison.detectable_difference
    metrics: dict[str, Any] = {
        "benchmark": inputs.benchmark,
        "weak_sandbox": any(map(judged_in_weak_sandbox, inputs.evaluations.values())),
        "problems": problems,
        **difference_metrics(comparison),
        "benchmarks": {
            name: {"problems": len(part.problems), **difference_metrics(part), "p_holm": round_p(p)}
            for name, (part, p) in compare_by_benchmark(*inputs.samples.values()).items()
        },
        "more_than_noise": comparison.beyond_noise,
        "smallest_detectable": round(best / problems, 6) if best <= comparison.independent else None,
        "smallest_detectable_here": None if here is None else round(here, 6),
    }
    if clean is not None:
        metrics["clean_problems"] = len(clean.problems)
        for k in shared_ks(inputs.evaluations):
            for target, interval in compute_intervals(clean, k).items():
                for suffix, value in zip(INTERVAL_SUFFIXES, interval, strict=True):
                    metrics[f"clean_{target}_pass_at_{k}{suffix}"] = round(value, 6)
        metrics |= {f"clean_{key}": value for key, value in difference_metrics(clean).items()}
    return metrics


def difference_metrics(comparison: Comparison) -> dict[str, float]:
    return {
        "won": len(comparison.won),
        "lost": len(comparison.lost),
        "p": round_p(comparison.p),
        "difference": round(comparison.difference, 6),
        "difference_low": round(comparison.low, 6),
        "difference_high": round(comparison.high, 6),
    }


def round_p(p: float) -> float:
    """Round a p to 6 places, a smaller one to 3 digits: p = 2.4e-9 is not 0."""
    return round(p, 6) if p >= 1e-4 else float(f"{p:.3g}")


def describe_quantized(inputs: ReportInputs) -> str:
    """Say which part of the difference quantization made, and which training; empty if it was not scored."""
    if inputs.quantized is None:
        return ""
    scores = {name: evaluation["pass_at_1"] for name, evaluation in inputs.evaluations.items()}
    quantized = inputs.evaluations["tuned"]["quantized_base"]["pass_at_1"]
    parts = [
        (
            "Quantizing the base",
            compare_models(inputs.samples["base"], inputs.quantized),
            scores["base"],
            quantized,
        ),
        (
            "training it then",
            compare_models(inputs.quantized, inputs.samples["tuned"]),
            quantized,
            scores["tuned"],
        ),
    ]
    told = [
        f"{what} moved pass@1 from {format_percent(before)} to {format_percent(after)} ({len(part.won)} problems won, "
        f"{len(part.lost)} lost, p {format_p_value(part.p)})"
        for what, part, before, after in parts
    ]
    return f"{'; '.join(told)}."


def describe_methods(comparison: Comparison, benchmarks: int) -> str:
    """Return the footnote under the score table: how its intervals and p are made."""
    dependent = comparison.independent < len(comparison.problems)
    drawn = ("whole groups of versions of one problem" if dependent else "whole problems") + (
        ", each benchmark keeping its number" if benchmarks > 1 else ""
    )
    boot = f"10,000 draws of {drawn}"
    scores = f"percentiles of {boot}" if comparison.has_several_samples or dependent else "Wilson's"
    flipped = "; versions of one problem are flipped together" if dependent else ""
    pooled = ""
    if benchmarks > 1:
        pooled = (
            " The line of all problems is one test pooled over the benchmarks, and the verdict rests on it; p of a "
            f"single benchmark is also given after Holm's correction for {benchmarks} tests."
        )
    return (
        f"In brackets: 95% intervals. Scores: {scores}. Differences: paired bootstrap, percentiles of {boot}. "
        f"p: {comparison.test_name}, two-sided{flipped}.{pooled}"
    )


def near_problems_table(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Return each problem that training rows resemble: how many rows, and the strongest evidence."""
    several = len(inputs.evaluations["tuned"]["benchmarks"]) > 1
    return [
        {
            "task_id": f"{task[1]} of {task[0]}" if several else task[1],
            "rows": line["rows"],
            "how": "; ".join(strongest_evidence(line)),
        }
        for task in dict.fromkeys(map(problem_key, inputs.samples["base"]))
        if (line := (inputs.near or {}).get(task))
    ]


def strongest_evidence(line: Mapping[str, Any]) -> list[str]:
    """Return, for each reason, the evidence of the closest row with its source."""
    strongest = (reason["strongest"][0] for reason in line["reasons"].values())
    return [f"{row['evidence']} ({row['source']})" for row in strongest]


def describe_clean_verdict(clean: Comparison | None) -> str:
    """Return the verdict on the clean part; empty if there is none."""
    if clean is None:
        return ""
    verdict = describe_verdict(clean)
    return f"On the {len(clean.problems)} problems that no training row resembles: {verdict[0].lower()}{verdict[1:]}"


def describe_clean_part(inputs: ReportInputs, clean: Comparison | None) -> str:
    """Say what the clean part is, and what it cannot show."""
    near = inputs.near
    if near is None:
        return (
            f"It is not known which problems of {inputs.benchmark} the training rows resemble: clean did "
            "not compare them with this benchmark."
        )
    if clean is None:
        return "Every problem resembles a training row, so there is no clean part to score."
    unknown = (
        "This covers only the training rows of this pipeline. What the base model was pretrained on is not "
        "known; it is the same for both models."
    )
    if not near:
        return f"No training row resembles a problem of {inputs.benchmark}. {unknown}"
    return (
        f"{len(near)} problems resemble a training row: the row shares words with them, has code like their "
        f"solution, or has a function of the same name. The clean part is the other {len(clean.problems)}. "
        "Problems that resemble training rows are often easy ones, so compare the two models on the clean "
        f"part, but not the clean part with the whole. {unknown}"
    )
