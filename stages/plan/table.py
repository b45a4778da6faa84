"""The plan as text."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.plan.training_plan import Plan

WIDTH = 100
NAMES = 26  # columns of a line's name


def table(plan: "Plan") -> str:
    """Figures by kind, then the warnings."""
    data, facts = plan.data, plan.facts
    error = f", standard error of the loss {facts.validation_error:.2f} nats" if facts.validation_rows else ""
    run = [
        ("base", f"{plan.base} ({plan.shape})"),
        ("rows", f"{data.rows:,} to train on, of {data.rows_in:,}; {data.said}"),
        (
            "rows over the length",
            f"{data.overlong_rows:,} ({data.overlong}: {data.overlong_dropped:,} rows, {data.tokens_lost:,} tokens lost)",
        ),
        ("validation", f"{data.validation_rows:,} rows{error}"),
        (
            "packs",
            f"{facts.packs:,} of {facts.max_length:,} tokens, {facts.utilisation:.1%} full; {data.tokens:,} tokens an epoch",
        ),
        (
            "optimizer steps",
            f"{facts.steps:,} of {facts.packs_per_step} packs, {facts.epochs:.3g} epochs, {plan.tokens:,} tokens",
        ),
        ("warmup", f"{facts.warmup_steps:,} steps, {facts.warmup_share:.0%} of all"),
        ("operations", f"{plan.operations / 1e9:,.2f} GFLOP a token"),
    ]
    where = (
        f"{facts.memory_name}, of {size(facts.memory)} that are free"
        if facts.device == "cpu"
        else f"{facts.memory_name}, of {size(facts.memory)}"
    )
    time = [
        ("this device", f"{plan.machine.name}: {plan.rate / 1e9:,.0f} GFLOP/s in products of these shapes"),
        ("share of it in training", f"{plan.share:.2f}, {plan.share_said}"),
        ("training", duration(plan.seconds)),
    ]
    blocks = [
        *block("run", run),
        *block(where, [*sizes(plan.memory), *without_file(plan)]),
        *block(f"disk, of {size(facts.disk)} that are free", sizes(plan.disk)),
        *block("time", time),
        f"warnings: {len(plan.warnings) or 'none'}",
        *[wrapped(f"- {name.replace('_', ' ')}: {text}") for name, text in plan.warnings.items()],
    ]
    return "\n".join(blocks)


def block(title: str, lines: list[tuple[str, str]]) -> list[str]:
    return [title, *[wrapped(f"  {name:<{NAMES}}{text}", NAMES + 2) for name, text in lines], ""]


def wrapped(line: str, indent: int = 2) -> str:
    return textwrap.fill(
        line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, drop_whitespace=True
    )


def sizes(parts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [
        (name, f"{size(value):>10}")
        for name, value in [*parts.items(), ("in all", sum(parts.values()))]
        if value
    ]


def size(value: int) -> str:
    return f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """
    >>> duration(5400.0)
    'about 1.5 hours'
    """
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"about {seconds / length:.1f} {name}"
    return f"about {seconds:.0f} seconds"


def without_file(plan: "Plan") -> list[tuple[str, str]]:
    """What must be there, where the sum holds pages that the kernel takes back."""
    must = plan.facts.needed
    return [("that must be there", f"{size(must):>10}")] if must != sum(plan.memory.values()) else []
