"""The table that ends a sweep, and which points differ from the base by more than noise when all are looked at."""

from collections.abc import Sequence

from stages.common.statistics import holm_adjusted
from stages.sweep.point import Result

NOISE = 0.05  # adjusted p from which a difference counts as noise


def table(results: Sequence[Result], key: str) -> list[str]:
    """Lines of the table; the comparison with the base is left out where no point has one."""
    adjusted = adjusted_p(results)
    compared = any(r.p is not None for r in results)
    rows = [
        ["point", key, "status", *(["points over base", "p", "p (Holm)"] if compared else []), "take it over"]
    ]
    for r in results:
        value = "-" if r.objective is None else f"{r.objective:.4g}"
        difference = "-" if r.difference is None else f"{100 * r.difference:+.1f}"
        comparison = [difference, told_p(r.p), told_p(adjusted.get(r.name))] if compared else []
        take = f"dvc exp apply {r.name}" if r.objective is not None else ""
        rows.append([r.name, value, r.status, *comparison, take])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which the cells of each column begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def adjusted_p(results: Sequence[Result]) -> dict[str, float]:
    """Holm's p by the point's name, over the points that have a p."""
    found = {r.name: r.p for r in results if r.p is not None}
    return dict(zip(found, holm_adjusted(list(found.values())), strict=True))


def told_p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def words(results: Sequence[Result]) -> list[str]:
    """Sentences below the table; none where no point has a comparison."""
    adjusted = adjusted_p(results)
    if not adjusted:
        return []
    differing = [
        f"{r.name} ({'better' if (r.difference or 0) > 0 else 'worse'})"
        for r in results
        if adjusted.get(r.name, 1.0) < NOISE
    ]
    said = [
        f"Differs from the base by more than noise, Holm's correction over {len(adjusted)} {'points' if len(adjusted) > 1 else 'point'}: "
        f"{', '.join(differing) or 'no point'}."
    ]
    weak = [r.name for r in results if r.weak]
    return [*said, f"Judged in a weak sandbox (level C): {', '.join(weak)}."] if weak else said
