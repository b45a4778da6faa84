"""What a reader must know beside the scores: what makes them doubtful, and what explains failed samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.report.inputs import ReportInputs

SHARE_TO_MENTION = 0.05  # share of samples above which a cause of failures is mentioned
Evaluations = Mapping[str, Mapping[str, Any]]  # metrics of evaluate, by target
CAUSES = {
    "truncated_share": "were cut at the token limit (evaluate.max_new_tokens) and fail if unfinished",
    "no_entry_point_share": "do not define the requested function and fail without a test run (see prompt.style)",
}


def find_caveats(inputs: ReportInputs) -> list[str]:
    """Return what makes the scores doubtful, as sentences; empty if nothing does."""
    evaluations = inputs.evaluations
    sentences = sandbox_caveats(evaluations)
    if inputs.metrics["merge"]["gate"] == "off":
        sentences.append(
            "The tuned model scored here is the merged model, and it was not compared with the trained one "
            "(merge.parity_tokens is 0): only its score would reveal a mistake in merging."
        )
    for where, parts in by_benchmark(evaluations):
        weak = per_model(parts, lambda m: m.get("weak_passed") and f"{m['weak_passed']} of", of="passed")
        if not weak:
            continue
        sentences.append(
            f"{weak} passed samples{where} are weak passes: their tests use classes that the completion defines, so the tests "
            "ran inside the sandbox with it, and the completion could have faked the result."
        )
    return sentences


def sandbox_caveats(evaluations: Evaluations) -> list[str]:
    """Return what is wrong with the sandboxes; names the benchmarks where only some were judged in that way."""
    by_weak: dict[tuple[str, ...], list[str]] = {}
    by_levels: dict[tuple[str, ...], list[str]] = {}
    names = list(evaluations["tuned"]["benchmarks"])
    for name in names:
        levels = {target: sandbox_level(metrics, name) for target, metrics in evaluations.items()}
        if weak := tuple(target for target, level in levels.items() if level == "C"):
            by_weak.setdefault(weak, []).append(name)
        if len(set(levels.values())) > 1:
            by_levels.setdefault(tuple(levels.values()), []).append(name)
    caveats = []
    for weak, where in by_weak.items():
        models = "Both models were" if len(weak) == len(evaluations) else f"The {weak[0]} model was"
        caveats.append(
            f"{models} judged in a weak sandbox{on_some(where, names)} (level C, resource limits only): a completion "
            "could read files, use the network and start programs, and so tamper with its judge."
        )
    for (base, tuned), where in by_levels.items():
        caveats.append(
            f"The base model was judged at isolation level {base}, the tuned model at level {tuned}"
            f"{on_some(where, names)}."
        )
    return caveats


def sandbox_level(evaluation: Mapping[str, Any], name: str) -> str:
    """Return the isolation level of a benchmark: its own where they differ, else that of all."""
    own = evaluation["benchmarks"][name].get("isolation", evaluation["isolation"])
    return str(own["level"])


def on_some(where: Sequence[str], names: Sequence[str]) -> str:
    return f" on {' and '.join(where)}" if len(where) < len(names) else ""


def find_notes(inputs: ReportInputs) -> list[str]:
    """Return what explains many failed samples, as sentences: it lowers scores, and does not make them doubtful."""
    notes = []
    for where, parts in by_benchmark(inputs.evaluations):
        for key, problem in CAUSES.items():
            shares = per_model(
                parts, lambda m, key=key: m.get(key, 0) > SHARE_TO_MENTION and f"{m[key]:.0%} of"
            )
            if shares:
                notes.append(f"{shares} samples{where} {problem}.")
    return notes


def by_benchmark(evaluations: Evaluations) -> list[tuple[str, Evaluations]]:
    """Return each benchmark's metrics by target, with ` of NAME` where there are several: a mean would hide one."""
    names = list(evaluations["tuned"]["benchmarks"])
    return [
        (f" of {name}" if len(names) > 1 else "", {t: m["benchmarks"][name] for t, m in evaluations.items()})
        for name in names
    ]


def per_model(evaluations: Evaluations, describe: Any, of: str = "") -> str:
    """Return `25% of the base model's and 20% of the tuned model's`, of the models that `describe` says something of."""
    found = {target: text for target, metrics in evaluations.items() if (text := describe(metrics))}
    return " and ".join(
        f"{text} the {target} model's" + (f" {evaluations[target][of]}" if of else "")
        for target, text in found.items()
    )
