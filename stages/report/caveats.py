"""What a reader must know before the figures: weak sandboxes, cut samples, functions that are not there."""

from collections.abc import Mapping
from typing import Any

from stages.report.inputs import TARGETS, ReportInputs, judged_in_weak_sandbox

SHARE = 0.05  # of the samples, above which it is said


def find_caveats(evidence: ReportInputs) -> list[str]:
    """Sentences; none where all is well."""
    scored = {target: evidence.metrics[f"evaluate/{target}"] for target in TARGETS}
    return [*sandbox(scored), *merge(evidence.metrics["merge"]), *weak_passes(scored), *shares(scored)]


def merge(metrics: Mapping[str, Any]) -> list[str]:
    if metrics["gate"] != "off":
        return []
    return [
        "The merged model, which is the tuned one here, was not compared with the trained model (merge.parity_tokens is 0): a "
        "mistake in merging would show in its score alone."
    ]


def sandbox(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = [target for target, metrics in scored.items() if judged_in_weak_sandbox(metrics)]
    levels = {target: metrics["isolation"]["level"] for target, metrics in scored.items()}
    said = []
    if found:
        whose = "Both models were" if len(found) == len(scored) else f"The {found[0]} model was"
        said.append(
            f"{whose} judged in a weak sandbox (level C, resource limits only): a completion could read files, use the "
            "network and start programs, and so reach what judges it."
        )
    if len(set(levels.values())) > 1:
        said.append(
            f"The judge was at level {levels['base']} for the base and {levels['tuned']} for the tuned model."
        )
    return said


def weak_passes(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = [(target, m["weak_passed"], m["passed"]) for target, m in scored.items() if m.get("weak_passed")]
    if not found:
        return []
    whose = " and ".join(
        f"{judged_in_weak_sandbox} of the {target} model's {passed}"
        for target, judged_in_weak_sandbox, passed in found
    )
    return [
        f"{whose} passed samples are weak: their test needs classes of the completion, ran in the sandbox with it, and "
        "could have been answered for instead of passed."
    ]


def shares(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    for key, what in (
        (
            "truncated_share",
            "were cut at the token limit (evaluate.max_new_tokens); what was not finished by then fails",
        ),
        (
            "no_entry_point_share",
            "do not define the function asked for, and fail without a test run (see prompt.style)",
        ),
    ):
        above = [(t, metrics[key]) for t, metrics in scored.items() if metrics.get(key, 0) > SHARE]
        if above:
            whose = " and ".join(f"{share:.0%} of the {target} model's" for target, share in above)
            said.append(f"{whose} samples {what}.")
    return said
