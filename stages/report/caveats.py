"""What a reader must know before the scores: weak sandboxes, unchecked merges, cut samples."""

from collections.abc import Mapping
from typing import Any

from stages.report.inputs import ReportInputs, judged_in_weak_sandbox

SHARE_TO_MENTION = 0.05  # share of samples above which a problem is mentioned
Evaluations = Mapping[str, Mapping[str, Any]]  # metrics of evaluate, by target


def find_caveats(inputs: ReportInputs) -> list[str]:
    """Return the caveats as sentences; empty if there are none."""
    evaluations = inputs.evaluations
    return [
        *sandbox_caveats(evaluations),
        *merge_caveats(inputs.metrics["merge"]),
        *weak_pass_caveats(evaluations),
        *share_caveats(evaluations),
    ]


def merge_caveats(merge: Mapping[str, Any]) -> list[str]:
    if merge["gate"] != "off":
        return []
    return [
        "The tuned model scored here is the merged model, and it was not compared with the trained one "
        "(merge.parity_tokens is 0): only its score would reveal a mistake in merging."
    ]


def sandbox_caveats(evaluations: Evaluations) -> list[str]:
    weak = [target for target, metrics in evaluations.items() if judged_in_weak_sandbox(metrics)]
    levels = {target: metrics["isolation"]["level"] for target, metrics in evaluations.items()}
    caveats = []
    if weak:
        models = "Both models were" if len(weak) == len(evaluations) else f"The {weak[0]} model was"
        caveats.append(
            f"{models} judged in a weak sandbox (level C, resource limits only): a completion could read "
            "files, use the network and start programs, and so tamper with its judge."
        )
    if len(set(levels.values())) > 1:
        caveats.append(
            f"The base model was judged at isolation level {levels['base']}, the tuned model at level "
            f"{levels['tuned']}."
        )
    return caveats


def weak_pass_caveats(evaluations: Evaluations) -> list[str]:
    counts = [
        (target, metrics["weak_passed"], metrics["passed"])
        for target, metrics in evaluations.items()
        if metrics.get("weak_passed")
    ]
    if not counts:
        return []
    samples = " and ".join(
        f"{weak_passed} of the {target} model's {passed}" for target, weak_passed, passed in counts
    )
    return [
        f"{samples} passed samples are weak passes: their tests use classes that the completion defines, so "
        "the tests ran inside the sandbox with it, and the completion could have faked the result."
    ]


def share_caveats(evaluations: Evaluations) -> list[str]:
    caveats = []
    for key, problem in (
        ("truncated_share", "were cut at the token limit (evaluate.max_new_tokens) and fail if unfinished"),
        (
            "no_entry_point_share",
            "do not define the requested function and fail without a test run (see prompt.style)",
        ),
    ):
        shares = [
            (target, metrics[key])
            for target, metrics in evaluations.items()
            if metrics.get(key, 0) > SHARE_TO_MENTION
        ]
        if shares:
            samples = " and ".join(f"{share:.0%} of the {target} model's" for target, share in shares)
            caveats.append(f"{samples} samples {problem}.")
    return caveats
