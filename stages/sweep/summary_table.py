"""The table printed at the end of a sweep, and which points differ from the base by more than noise."""

from collections.abc import Sequence

from stages.common.comparison import SIGNIFICANCE_LEVEL
from stages.common.statistics import holm_adjusted
from stages.sweep.point import PointOutcome


def format_outcomes(outcomes: Sequence[PointOutcome], key: str) -> list[str]:
    """Return the lines of the table, without the comparison with the base if no point has one."""
    adjusted = adjust_p(outcomes)
    compared = any(outcome.p is not None for outcome in outcomes)
    comparison_columns = ["over base (pp)", "p", "p (Holm)"] if compared else []
    rows = [["point", key, "status", *comparison_columns, "adopt with"]]
    for outcome in outcomes:
        value = "-" if outcome.objective is None else f"{outcome.objective:.4g}"
        difference = "-" if outcome.difference is None else f"{100 * outcome.difference:+.1f}"
        comparison = (
            [difference, format_p(outcome.p), format_p(adjusted.get(outcome.name))] if compared else []
        )
        adopt = f"dvc exp apply {outcome.name}" if outcome.objective is not None else ""
        rows.append([outcome.name, value, outcome.status, *comparison, adopt])
    return align_columns(rows)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, with the cells of each column left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def adjust_p(outcomes: Sequence[PointOutcome]) -> dict[str, float]:
    """Return p after Holm's correction by the point's name, for the points that have a p."""
    raw = {outcome.name: outcome.p for outcome in outcomes if outcome.p is not None}
    return dict(zip(raw, holm_adjusted(list(raw.values())), strict=True))


def format_p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def describe_outcomes(outcomes: Sequence[PointOutcome]) -> list[str]:
    """Return the sentences below the table; none if no point is compared with the base."""
    adjusted = adjust_p(outcomes)
    if not adjusted:
        return []
    differing = [
        f"{outcome.name} ({'better' if (outcome.difference or 0) > 0 else 'worse'})"
        for outcome in outcomes
        if adjusted.get(outcome.name, 1.0) < SIGNIFICANCE_LEVEL
    ]
    count = f"{len(adjusted)} {'points' if len(adjusted) > 1 else 'point'}"
    sentences = [
        f"Different from the base by more than noise, after Holm's correction for {count}: "
        f"{', '.join(differing) or 'none'}."
    ]
    weak = [outcome.name for outcome in outcomes if outcome.weak]
    if weak:
        sentences.append(f"Judged in a weak sandbox (level C): {', '.join(weak)}.")
    return sentences
