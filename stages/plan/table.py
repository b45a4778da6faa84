"""Render the plan as text."""

import textwrap
from collections.abc import Mapping

from stages.plan.training_plan import TrainingPlan

LINE_WIDTH = 100
NAME_COLUMNS = 26  # width of a line's name


def render_plan(plan: TrainingPlan) -> str:
    """Return the figures by kind, then the warnings."""
    data, facts = plan.data, plan.facts
    error = f", standard error of the loss {facts.validation_error:.2f} nats" if facts.validation_rows else ""
    run = [
        ("base", f"{plan.base} ({plan.shape})"),
        ("rows", f"{data.rows:,} to train on, of {data.rows_in:,}; {data.basis}"),
        (
            "rows over the length",
            f"{data.overlong_rows:,} ({data.overlong}: {data.overlong_dropped:,} rows, "
            f"{data.tokens_lost:,} tokens lost)",
        ),
        ("validation", f"{data.validation_rows:,} rows{error}"),
        (
            "packs",
            f"{facts.packs:,} of {facts.max_length:,} tokens, {facts.utilisation:.1%} full; "
            f"{data.tokens:,} tokens per epoch",
        ),
        (
            "optimizer steps",
            f"{facts.steps:,} of {facts.packs_per_step} packs, {facts.epochs:.3g} epochs, "
            f"{plan.tokens:,} tokens",
        ),
        ("warmup", f"{facts.warmup_steps:,} steps, {facts.warmup_share:.0%} of all"),
        ("operations", f"{plan.operations / 1e9:,.2f} GFLOP per token"),
    ]
    free = " free" if facts.device == "cpu" else ""
    memory = f"{facts.memory_name}, of {format_size(facts.memory)}{free}"
    time = [
        ("this device", f"{plan.machine.name}: {plan.rate / 1e9:,.0f} GFLOP/s in products of these shapes"),
        ("share of it in training", f"{plan.share:.2f}, {plan.share_basis}"),
        ("training", approximate_duration(plan.seconds)),
    ]
    lines = [
        *block("run", run),
        *block(memory, [*size_lines(plan.memory), *required_memory(plan)]),
        *block(f"disk, of {format_size(facts.disk)} free", size_lines(plan.disk)),
        *block("time", time),
        f"warnings: {len(plan.warnings) or 'none'}",
        *[wrap_line(f"- {name.replace('_', ' ')}: {text}") for name, text in plan.warnings.items()],
    ]
    return "\n".join(lines)


def block(title: str, lines: list[tuple[str, str]]) -> list[str]:
    """Return a title, its lines of name and text, and a blank line."""
    return [
        title,
        *[wrap_line(f"  {name:<{NAME_COLUMNS}}{text}", NAME_COLUMNS + 2) for name, text in lines],
        "",
    ]


def wrap_line(line: str, indent: int = 2) -> str:
    return textwrap.fill(
        line, LINE_WIDTH, subsequent_indent=" " * indent, break_long_words=False, drop_whitespace=True
    )


def size_lines(parts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return a line for each part that is not empty, and one for their sum."""
    return [
        (name, f"{format_size(value):>10}")
        for name, value in [*parts.items(), ("in all", sum(parts.values()))]
        if value
    ]


def required_memory(plan: TrainingPlan) -> list[tuple[str, str]]:
    """Return a line for the memory that must be free, if the sum has pages that the kernel can reclaim."""
    required = plan.facts.needed
    return [("required", f"{format_size(required):>10}")] if required != sum(plan.memory.values()) else []


def format_size(value: int) -> str:
    return f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def approximate_duration(seconds: float) -> str:
    """
    >>> approximate_duration(5400.0)
    'about 1.5 hours'
    """
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"about {seconds / length:.1f} {name}"
    return f"about {seconds:.0f} seconds"
