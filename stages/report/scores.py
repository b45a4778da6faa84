"""pass@k of both models, over all problems and over those that no training row came near."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.comparison import Comparison, compare_models, counts, describe_verdict, difference_interval
from stages.common.page.formats import format_p_value, format_percent, format_points
from stages.common.statistics import pass_at_k_interval, smallest_detectable
from stages.report.inputs import TARGETS, ReportInputs, judged_in_weak_sandbox

ENDS = ("", "_low", "_high")
Interval = Sequence[float]  # value, low, high


def compare_clean_part(evidence: ReportInputs) -> Comparison | None:
    """The comparison over the problems that no training row came near; None where no problem is left, or it is not known."""
    if evidence.near is None or {sample["task_id"] for sample in evidence.samples["base"]} <= set(
        evidence.near
    ):
        return None
    return compare_models(evidence.samples["base"], evidence.samples["tuned"], without=evidence.near)


def shared_ks(evidence: ReportInputs) -> list[int]:
    """The k of every pass@k that both models are scored by."""
    base, tuned = (evidence.metrics[f"evaluate/{target}"] for target in TARGETS)
    return sorted(int(k) for key in base if key in tuned for k in re.findall(r"^pass_at_(\d+)$", key))


def score_table(
    evidence: ReportInputs, comparison: Comparison, clean: Comparison | None
) -> list[dict[str, str]]:
    """The table of scores: a line for each k and each set of problems."""
    rows = []
    for k in shared_ks(evidence):
        full = {t: reported_interval(evidence.metrics[f"evaluate/{t}"], k) for t in TARGETS}
        rows.append(score_row(k, f"all {len(comparison.pairs)}", comparison, full))
        if clean:
            rows.append(
                score_row(
                    k,
                    f"{len(clean.pairs)} that no training row is near",
                    clean,
                    recomputed_intervals(clean, k),
                )
            )
    return rows


def reported_interval(metrics: Mapping[str, Any], k: int) -> Interval:
    return [metrics[f"pass_at_{k}{end}"] for end in ENDS]


def recomputed_intervals(part: Comparison, k: int) -> dict[str, Interval]:
    return {target: pass_at_k_interval(counts(part.pairs, target), k) for target in TARGETS}


def score_row(k: int, problems: str, part: Comparison, rates: Mapping[str, Interval]) -> dict[str, str]:
    difference = (part.difference, part.low, part.high) if k == 1 else difference_interval(part.pairs, k)
    return {
        "score": f"pass@{k}",
        "problems": problems,
        **{target: format_interval(rates[target], format_percent) for target in TARGETS},
        "difference": format_interval(difference, format_points),
        "p": format_p_value(part.p).removeprefix("= ") if k == 1 else "",
    }


def format_interval(value: Interval, form: Any) -> str:
    return f"{form(value[0])} ({form(value[1])} to {form(value[2])})"


def report_metrics(
    evidence: ReportInputs, comparison: Comparison, clean: Comparison | None
) -> dict[str, Any]:
    """The metrics of reports/report.json. Rates and differences are shares, 0.01 for a percentage point."""
    problems = len(comparison.pairs)
    best = smallest_detectable(problems)
    found: dict[str, Any] = {
        "benchmark": evidence.metrics["evaluate/tuned"]["benchmark"],
        "weak_sandbox": any(
            judged_in_weak_sandbox(evidence.metrics[f"evaluate/{target}"]) for target in TARGETS
        ),
        "problems": problems,
        **difference_metrics(comparison),
        "more_than_noise": comparison.beyond_noise,
        "smallest_detectable": round(best / problems, 6) if best <= problems else None,
        "smallest_detectable_here": None if comparison.needed is None else round(comparison.needed, 6),
    }
    if clean is not None:
        found["clean_problems"] = len(clean.pairs)
        for k in shared_ks(evidence):
            for target, rates in recomputed_intervals(clean, k).items():
                found |= {
                    f"clean_{target}_pass_at_{k}{end}": round(v, 6)
                    for end, v in zip(ENDS, rates, strict=True)
                }
        found |= {f"clean_{key}": value for key, value in difference_metrics(clean).items()}
    return found


def difference_metrics(part: Comparison) -> dict[str, float]:
    return {
        "won": len(part.won),
        "lost": len(part.lost),
        "p": round(part.p, 6),
        "difference": round(part.difference, 6),
        "difference_low": round(part.low, 6),
        "difference_high": round(part.high, 6),
    }


def near_problems_table(evidence: ReportInputs) -> list[dict[str, Any]]:
    """The problems that training rows came near: how, shown by the strongest row for each way, and how many rows."""
    return [
        {"task_id": task, "rows": line["rows"], "how": "; ".join(strongest_evidence(line))}
        for task in dict.fromkeys(sample["task_id"] for sample in evidence.samples["base"])
        if (line := (evidence.near or {}).get(task))
    ]


def strongest_evidence(line: Mapping[str, Any]) -> list[str]:
    """The evidence of the greatest measure for each reason, with its source."""
    best = (reason["strongest"][0] for reason in line["reasons"].values())
    return [f"{found['evidence']} ({found['source']})" for found in best]


def describe_clean_verdict(clean: Comparison | None) -> str:
    """The verdict on the clean part; empty where there is none."""
    if clean is None:
        return ""
    said = describe_verdict(clean)
    return f"On the {len(clean.pairs)} problems that no training row comes near: {said[0].lower()}{said[1:]}"


def describe_clean_part(evidence: ReportInputs, clean: Comparison | None) -> str:
    """What the clean part is, and what it does not say."""
    benchmark, near = evidence.metrics["evaluate/tuned"]["benchmark"], evidence.near
    if near is None:
        return f"Which problems of {benchmark} the training rows come near is not known: clean did not compare them."
    if clean is None:
        return "A training row comes near every problem: there is no clean part to score."
    unseen = (
        "Only the training rows of this pipeline were compared; what the base model was trained on before is not known, "
        "and is the same for both models."
    )
    if not near:
        return f"No training row comes near a problem of {benchmark}. {unseen}"
    return (
        f"A training row comes near {len(near)} problems: it shares words with them, is written like their solution, or "
        f"has a function of the same name. The clean part is the other {len(clean.pairs)}. What rows come near "
        f"is often easy: compare the two models on the clean part, not the clean part with the whole. {unseen}"
    )
