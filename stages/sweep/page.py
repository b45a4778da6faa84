"""The page of a sweep and its table as CSV: results, whether they are more than noise, and their cost."""

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.core.files import atomic_write
from stages.common.page.figures import STYLE_FOLDER, figure_embedder
from stages.common.page.formats import format_duration, format_memory, format_p_value, format_points
from stages.common.page.plot_style import render_png
from stages.sweep import sweep_plots
from stages.sweep.comparisons import (
    Difference,
    PointComparison,
    base_value,
    best_point,
    compare_points,
    describe_results,
    is_share,
    is_weak,
    list_cautions,
    objective_format,
    objective_name,
    round_value,
    short_keys,
)
from stages.sweep.cost import tally_costs
from stages.sweep.results import PointResult, SweepResults

TEMPLATE_FOLDER = Path(__file__).parent
ERROR_LINES = 12
JUDGED_METRICS = ("reports/evaluate/", "reports/report.json")  # metrics that a weak sandbox makes doubtful
PASS_AT_1 = "reports/evaluate/tuned.json:pass_at_1"


def write_report(folder: Path, sweep: SweepResults) -> None:
    """Write index.html and sweep.csv into `folder`; the same results give the same bytes."""
    comparisons = compare_points(sweep)
    page = render_sweep(sweep, comparisons)
    with (
        atomic_write(folder / "sweep.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [*CSV_COLUMNS[:1], *sweep.keys, *CSV_COLUMNS[1:]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_row(comparison) for comparison in comparisons)
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(page, "utf-8")


CSV_COLUMNS = (
    "name",
    "objective",
    "low",
    "high",
    "difference",
    "p",
    "p_holm",
    "difference_best",
    "p_best",
    "p_best_holm",
    "validation_loss",
    "seconds",
    "train_seconds",
    "tokens_per_second",
    "peak_memory_mib",
    "status",
    "commit",
)


def csv_row(comparison: PointComparison) -> dict[str, Any]:
    """Return a point's cells, None if there is no value. Differences in pass@1 are fractions."""
    point, train = comparison.point, comparison.point.metrics.get("train", {})
    base, best = comparison.base, comparison.best
    return {
        **point.attempt.overrides,
        "name": point.attempt.name,
        "objective": point.value,
        "low": comparison.low,
        "high": comparison.high,
        "difference": base and base.value,
        "p": base and base.p,
        "p_holm": base and base.p_holm,
        "difference_best": best and best.value,
        "p_best": best and best.p,
        "p_best_holm": best and best.p_holm,
        "validation_loss": train.get("validation_loss_kept"),
        "seconds": point.attempt.seconds,
        "train_seconds": train.get("seconds"),
        "tokens_per_second": train.get("tokens_per_second"),
        "peak_memory_mib": train.get("peak_memory_mib"),
        "status": point.attempt.status,
        "commit": point.commit,
    }


def render_sweep(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> str:
    """Return the page. All values in it are escaped, except the pictures. The style sheet is the report's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader((TEMPLATE_FOLDER, STYLE_FOLDER)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn, short = draw_pictures(sweep, comparisons), short_keys(sweep.keys)
    return environment.get_template("page.html.j2").render(
        sweep=sweep,
        objective=objective_name(sweep.objective),
        cautions=list_cautions(sweep, comparisons),
        words=describe_results(sweep, comparisons),
        keys=[(key, short[key]) for key in sweep.keys],
        base=base_row(sweep),
        lines=point_rows(sweep, comparisons),
        shows=visible_columns(sweep, comparisons),
        columns=sum(
            visible_columns(sweep, comparisons)[name]
            for name in ("pass_at_1", "base", "best", "validation", "training")
        ),
        over_keys=[(f"over {key}", over_caption(sweep, key)) for key in sweep.keys if f"over {key}" in drawn],
        pictures=drawn,
        many=sweep_plots.MANY,
        cost=tally_costs(sweep, comparisons),
        unfinished=[row for row in map(describe_unfinished, comparisons) if row],
        figure=figure_embedder(drawn),
    )


def visible_columns(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> dict[str, bool]:
    """Return which columns the table has: those that at least one point has a value for."""
    train = [comparison.point.metrics.get("train", {}) for comparison in comparisons]
    return {
        "pass_at_1": sweep.objective != PASS_AT_1
        and any(tuned_pass_at_1(f.point) is not None for f in comparisons),
        "base": any(comparison.base for comparison in comparisons),
        "best": any(comparison.best for comparison in comparisons),
        "validation": any("validation_loss_kept" in metrics for metrics in train),
        "ends": any(comparison.low is not None for comparison in comparisons),
        "grey": any(
            len({other_values(sweep, p, key) for p in sweep.finished}) > sweep_plots.MANY
            for key in sweep.keys
        ),
        "training": any("seconds" in metrics for metrics in train),
    }


def tuned_pass_at_1(point: PointResult) -> float | None:
    value: float | None = point.metrics.get("evaluate/tuned", {}).get("pass_at_1")
    return value


def base_row(sweep: SweepResults) -> dict[str, str] | None:
    """Return the base model's row of the table."""
    found, form = base_value(sweep), objective_format(sweep.objective)
    if found is None:
        return None
    value, low, high = found
    return {"value": form(value), "ends": objective_interval(sweep, low, high)}


def objective_interval(sweep: SweepResults, low: float | None, high: float | None) -> str:
    form = objective_format(sweep.objective)
    return "" if low is None or high is None else f"{form(low)} to {form(high)}"


def point_rows(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> list[dict[str, Any]]:
    """Return the rows of the table of points, the best first, those without an objective last."""
    sign = 1 if sweep.direction == "minimize" else -1
    numbered = list(enumerate(comparisons, 1))
    numbered.sort(
        key=lambda item: (item[1].point.value is None, not item[1].is_best, sign * (item[1].point.value or 0))
    )
    return [point_row(sweep, number, comparison) for number, comparison in numbered]


def point_row(sweep: SweepResults, number: int, comparison: PointComparison) -> dict[str, Any]:
    point, train = comparison.point, comparison.point.metrics.get("train", {})
    form, rate = objective_format(sweep.objective), tuned_pass_at_1(point)
    return {
        "number": number,
        "name": point.attempt.name,
        "values": [
            (value, round_value(value))
            for value in (point.attempt.overrides.get(key, "") for key in sweep.keys)
        ],
        "value": "" if point.value is None else form(point.value),
        "ends": objective_interval(sweep, comparison.low, comparison.high),
        "weak": is_weak(point),
        "is_best": comparison.is_best,
        "pass_at_1": "" if rate is None else f"{100 * rate:.1f}%",
        "base": difference_cells(comparison.base),
        "best": difference_cells(comparison.best),
        "left_out": comparison.left_out,
        "validation": format_optional(train.get("validation_loss_kept"), lambda loss: f"{loss:.4f}"),
        "training": format_optional(train.get("seconds"), format_duration),
        "speed": format_optional(train.get("tokens_per_second"), lambda speed: f"{speed:,.0f} tokens/s"),
        "memory": format_memory(train.get("peak_memory_mib")),
        "status": point.attempt.status,
        "take": f"dvc exp apply {shlex.quote(point.attempt.name)}" if point.commit else "",
    }


def format_optional(value: float | None, form: Any) -> str:
    return "" if value is None else form(value)


def difference_cells(difference: Difference | None) -> dict[str, Any] | None:
    """Return the cells of a difference: points, p, p after Holm's correction."""
    if difference is None:
        return None
    p, p_holm = (format_p_value(value).removeprefix("= ") for value in (difference.p, difference.p_holm))
    return {
        "points": format_points(difference.value),
        "p": p,
        "p_holm": p_holm,
        "real": difference.beyond_noise,
    }


def describe_unfinished(comparison: PointComparison) -> dict[str, str] | None:
    """Return a failed or pruned point with the last lines of its error; None for a finished one."""
    attempt = comparison.point.attempt
    if comparison.point.value is not None:
        return None
    last = attempt.error.strip().splitlines()[-ERROR_LINES:]
    return {
        "label": comparison.label,
        "name": attempt.name,
        "status": attempt.status,
        "error": "\n".join(last),
    }


def draw_pictures(sweep: SweepResults, comparisons: Sequence[PointComparison]) -> dict[str, bytes]:
    """Draw all pictures as PNG, by name: one for each swept key with finished points, and the loss curves."""
    finished, best = [f for f in comparisons if f.point.value is not None], best_point(sweep)
    if best is None:
        return {}
    drawn = {}
    for key in sweep.keys:
        with_key = [comparison for comparison in finished if key in comparison.point.attempt.overrides]
        if with_key:
            drawn[f"over {key}"] = draw_over_key(sweep, key, with_key, best)
    curves = {f.label: f.point.curve for f in finished if f.point.curve}
    if curves:
        factor, what = picture_unit(sweep)
        values = {f.label: factor * (f.point.value or 0) for f in finished}
        names = list(curves) if len(curves) <= sweep_plots.MANY else ["best"]
        height = 2.9 + sweep_plots.legend_height([f"{name} (best)" for name in names])
        top = next(f.label for f in finished if f.point is best)
        drawn["losses"] = render_png(sweep_plots.plot_losses, curves, top, values, what, height=height)
    return drawn


def picture_unit(sweep: SweepResults) -> tuple[float, str]:
    """Return what the objective is multiplied by in pictures, and its name with the unit."""
    name = objective_name(sweep.objective)
    return (100.0, f"{name} in %") if is_share(sweep.objective) else (1.0, name)


def draw_over_key(
    sweep: SweepResults, key: str, comparisons: Sequence[PointComparison], best: PointResult
) -> bytes:
    factor, what = picture_unit(sweep)
    scale = sweep_plots.scale_of([comparison.point.attempt.overrides[key] for comparison in comparisons])
    lines: dict[str, list[sweep_plots.Dot]] = {}
    for comparison in comparisons:
        low, high = (None if end is None else factor * end for end in (comparison.low, comparison.high))
        position = scale.positions[comparison.point.attempt.overrides[key]]
        dot = sweep_plots.Dot(position, factor * (comparison.point.value or 0), low, high)
        lines.setdefault(other_values(sweep, comparison.point, key), []).append(dot)
    base, top = base_value(sweep), other_values(sweep, best, key)
    names = ["base model", *(lines if len(lines) <= sweep_plots.MANY else [top, "mean of all", "others"])]
    return render_png(
        sweep_plots.plot_over_key,
        sweep_plots.shortened(key, 60),
        scale,
        lines,
        top,
        what,
        None if base is None else factor * base[0],
        sweep.objective.startswith(JUDGED_METRICS)
        and any(is_weak(comparison.point) for comparison in comparisons),
        height=2.6 + sweep_plots.legend_height(names),
    )


def other_values(sweep: SweepResults, point: PointResult, key: str) -> str:
    """Return the values of a point's other swept keys; `tuned` if there are none."""
    short = short_keys(sweep.keys)
    pairs = [f"{short[k]} {round_value(value)}" for k, value in point.attempt.overrides.items() if k != key]
    return sweep_plots.shortened(", ".join(pairs), 60) or "tuned"


def over_caption(sweep: SweepResults, key: str) -> str:
    name, short = objective_name(sweep.objective), short_keys(sweep.keys)
    rest = [short[k] for k in sweep.keys if k != key]
    many = len({other_values(sweep, point, key) for point in sweep.finished}) > sweep_plots.MANY
    lines = f", {'all' if many else 'a colour for each'} {' and '.join(rest)}" if rest else ""
    return f"{name} over {key}{lines}."
