"""Render the plan as text."""

import textwrap
from collections.abc import Mapping

from stages.plan.advice import find_warnings
from stages.plan.data_estimate import TrainingData
from stages.plan.planned_run import SPREAD, PlannedRun, standard_error, utilisation

LINE_WIDTH = 100
NAME_COLUMNS = 26  # width of a line's name


def render_plan(run: PlannedRun) -> str:
    """Return the figures by kind, then the warnings."""
    machine, warnings = run.machine, find_warnings(run)
    lines = [
        *block("run", run_lines(run)),
        *block(
            f"{machine.memory_name}, of {format_size(machine.memory)} free",
            [*size_lines(run.memory), *needed_lines(run)],
        ),
        *block(f"disk, of {format_size(machine.disk)} free", size_lines(run.disk)),
        *block(
            "time",
            [
                ("this device", f"{machine.name}: {run.rate / 1e9:,.0f} GFLOP/s in a matrix product"),
                ("share of it in training", f"{run.share:.2f}, {run.share_basis}"),
                ("training" if run.tokens else "a million tokens", approximate_duration(run.seconds)),
            ],
        ),
        *block("evaluation", [("can show", run.power)]),
        f"warnings: {len(warnings) or 'none'}",
        *[wrap_line(f"- {name.replace('_', ' ')}: {text}") for name, text in warnings.items()],
    ]
    return "\n".join(lines)


def run_lines(run: PlannedRun) -> list[tuple[str, str]]:
    """Return name and text of each line about model, rows and steps."""
    base = ("base", f"{run.sections['base'].name} ({run.shape})")
    operations = ("operations", f"{run.operations / 1e9:,.2f} GFLOP per token")
    data = run.data
    if not isinstance(data, TrainingData):
        unknown = (
            f"not known: {data}. Rows, steps and their warnings need `dvc repro clean` with this configuration in "
            "params.yaml; memory is that of full packs"
        )
        return [base, ("rows", unknown), operations]
    error = standard_error(SPREAD, data.validation_rows)
    error_text = f", standard error of the loss {error:.2f} nats" if data.validation_rows else ""
    return [
        base,
        ("rows", f"{data.rows:,} to train on, of {data.rows_in:,}; {data.basis}"),
        (
            "rows over the length",
            f"{data.overlong_rows:,} ({data.overlong}: {data.overlong_dropped:,} rows, "
            f"{data.tokens_lost:,} tokens lost)",
        ),
        ("validation", f"{data.validation_rows:,} rows{error_text}"),
        (
            "packs",
            f"{len(data.pack_tokens):,} of {run.max_length:,} tokens, {utilisation(data, run.max_length):.1%} "
            f"full; {data.tokens:,} tokens per epoch",
        ),
        (
            "optimizer steps",
            f"{run.steps:,} of {run.packs_per_step} packs, {run.epochs:.3g} epochs, {run.tokens:,} tokens",
        ),
        ("warmup", f"{run.warmup_steps:,} steps, {run.warmup_share:.0%} of all"),
        operations,
    ]


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


def needed_lines(run: PlannedRun) -> list[tuple[str, str]]:
    """Return lines for what must be free: for training, if its sum has pages that the kernel can reclaim; later."""
    reclaimed = run.needed != sum(run.memory.values())
    needed = {**({"required": run.needed} if reclaimed else {}), **run.later}
    return [(name, f"{format_size(size):>10}") for name, size in needed.items() if size]


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
