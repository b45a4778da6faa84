"""The table of a sweep's points: on the terminal, on the page, and as CSV with every figure in full."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.core.files import atomic_write
from stages.common.page.formats import format_duration, format_p_value, format_percent, format_points
from stages.sweep.results import Difference, Sweep, SweepPoint
from stages.sweep.words import objective_format, objective_name

# Columns that a terminal of 80 characters has room for
ON_TERMINAL = ("point", "score", "status", "over base", "over best")


def table_rows(sweep: Sweep) -> list[dict[str, str]]:
    """Return the cells of each point, the best first, those without an objective last; each row has every column."""
    sign = 1 if sweep.spec.direction == "minimize" else -1
    ranked = sorted(
        sweep.points,
        key=lambda p: (p.value is None, not p.is_best, sign * (0.0 if p.value is None else p.value)),
    )
    return [point_cells(sweep, point) for point in ranked]


def point_cells(sweep: Sweep, point: SweepPoint) -> dict[str, str]:
    """Return a point's cells as text; empty where there is nothing to show."""
    loss = point.metrics.get("train", {}).get("validation_loss_kept")
    training = point.outcome.times.get("train_seconds")
    scores = point.by_benchmark
    against = difference_cell(point.best) or (
        "left out" if point.left_out and point.value is not None else ""
    )
    return {
        "point": point.name,
        "score": score_cell(sweep, point.value, point.interval(sweep.spec.objective)),
        "status": point.outcome.status + (", weak sandbox" if point.weak else ""),
        **{name: format_percent(scores[name]) if name in scores else "" for name in sweep.benchmarks},
        "over base": difference_cell(point.base),
        "over best": "best" if point.is_best and len(sweep.finished) > 1 else against,
        "validation loss": "" if loss is None else f"{loss:.4f}",
        "training": "" if training is None else format_duration(training),
        "whole point": format_duration(point.outcome.seconds),
    }


def score_cell(sweep: Sweep, value: float | None, ends: tuple[float, float] | None) -> str:
    """Return `4.9% (2.5 to 9.4)`."""
    if value is None:
        return ""
    form = objective_format(sweep.spec.objective)
    return form(value) + (f" ({form(ends[0]).rstrip('%')} to {form(ends[1]).rstrip('%')})" if ends else "")


def difference_cell(difference: Difference | None) -> str:
    """Return `+1.2 (p 0.43)`, with the p after Holm's correction."""
    if difference is None:
        return ""
    p = format_p_value(difference.p_holm).removeprefix("= ").replace("< ", "<")
    return f"{format_points(difference.value)} (p {p})"


def shown_columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the columns in which at least one point has a cell."""
    return [column for column in rows[0] if any(row[column] for row in rows)] if rows else []


def format_table(sweep: Sweep) -> list[str]:
    """Return the lines of the table for a terminal."""
    rows = table_rows(sweep)
    columns = [column for column in shown_columns(rows) if column in ON_TERMINAL]
    names = {"score": objective_name(sweep.spec.objective)}
    cells = [[names.get(c, c) for c in columns], *([row[c] or "-" for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(c.ljust(width) for c, width in zip(line, widths, strict=True)).rstrip() for line in cells
    ]


def write_csv_table(path: Path, sweep: Sweep) -> None:
    rows = [csv_row(sweep, point) for point in sweep.points]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def csv_row(sweep: Sweep, point: SweepPoint) -> dict[str, Any]:
    """Return a point's figures, None if there is no value. Differences in pass@1 are shares."""
    low, high = point.interval(sweep.spec.objective) or (None, None)
    times = point.outcome.times
    differences = {
        f"{name}{suffix}": difference and getattr(difference, name)
        for suffix, difference in (("", point.base), ("_best", point.best))
        for name in ("value", "p", "p_holm")
    }
    return {
        "name": point.name,
        **{key: point.outcome.overrides.get(key) for key in sweep.keys},
        "objective": point.value,
        "low": low,
        "high": high,
        **{f"pass_at_1_{name}": point.by_benchmark.get(name) for name in sweep.benchmarks},
        **{name.replace("value", "difference"): value for name, value in differences.items()},
        "validation_loss": point.metrics.get("train", {}).get("validation_loss_kept"),
        "seconds": point.outcome.seconds,
        **{key: times.get(key) for key in ("train_seconds", "tokens_per_second", "peak_memory_mib")},
        "status": point.outcome.status,
        "commit": point.commit,
    }
