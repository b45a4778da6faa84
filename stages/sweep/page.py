"""The page of a sweep, and its table as CSV: what its points came to, whether that is more than noise, what it took."""

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.files import atomic_write
from stages.common.page.figures import STYLE_FOLDER, figure_embedder
from stages.common.page.formats import format_duration, format_memory, format_p_value, format_points
from stages.common.page.plot_style import render_png
from stages.sweep import sweep_plots
from stages.sweep.comparisons import (
    Difference,
    Finding,
    base_value,
    best_point,
    cautions,
    findings,
    is_share,
    is_weak,
    rounded,
    short_keys,
    shown_name,
    shown_value,
    words,
)
from stages.sweep.cost import cost
from stages.sweep.results import Point, SweepEvidence

HERE = Path(__file__).parent
ERROR_LINES = 12
JUDGED = ("reports/evaluate/", "reports/report.json")  # what a weak sandbox makes doubtful
PASS_AT_1 = "reports/evaluate/tuned.json:pass_at_1"


def write_report(folder: Path, sweep: SweepEvidence) -> None:
    """Write index.html and sweep.csv into `folder`; the same evidence gives the same bytes."""
    found = findings(sweep)
    page = render(sweep, found)
    with (
        atomic_write(folder / "sweep.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [*COLUMNS[:1], *sweep.keys, *COLUMNS[1:]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_row(finding) for finding in found)
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(page, "utf-8")


COLUMNS = (
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


def csv_row(finding: Finding) -> dict[str, Any]:
    """A point's cells; None where there is nothing to tell. Differences are shares of pass@1."""
    point, train = finding.point, finding.point.metrics.get("train", {})
    base, best = finding.base, finding.best
    return {
        **point.tried.overrides,
        "name": point.tried.name,
        "objective": point.value,
        "low": finding.low,
        "high": finding.high,
        "difference": base and base.value,
        "p": base and base.p,
        "p_holm": base and base.p_holm,
        "difference_best": best and best.value,
        "p_best": best and best.p,
        "p_best_holm": best and best.p_holm,
        "validation_loss": train.get("validation_loss_kept"),
        "seconds": point.tried.seconds,
        "train_seconds": train.get("seconds"),
        "tokens_per_second": train.get("tokens_per_second"),
        "peak_memory_mib": train.get("peak_memory_mib"),
        "status": point.tried.status,
        "commit": point.commit,
    }


def render(sweep: SweepEvidence, found: Sequence[Finding]) -> str:
    """The page. Whatever is put into it is escaped, but for the pictures. The style sheet is the report's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader((HERE, STYLE_FOLDER)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn, short = draw(sweep, found), short_keys(sweep.keys)
    return environment.get_template("page.html.j2").render(
        sweep=sweep,
        objective=shown_name(sweep.objective),
        cautions=cautions(sweep, found),
        words=words(sweep, found),
        keys=[(key, short[key]) for key in sweep.keys],
        base=base_line(sweep),
        lines=table(sweep, found),
        shows=shows(sweep, found),
        columns=sum(
            shows(sweep, found)[name] for name in ("pass_at_1", "base", "best", "validation", "training")
        ),
        over_keys=[(f"over {key}", over_caption(sweep, key)) for key in sweep.keys if f"over {key}" in drawn],
        pictures=drawn,
        many=sweep_plots.MANY,
        cost=cost(sweep, found),
        unfinished=[line for line in map(unfinished, found) if line],
        figure=figure_embedder(drawn),
    )


def shows(sweep: SweepEvidence, found: Sequence[Finding]) -> dict[str, bool]:
    """Which columns the table has: those that some point has a figure for."""
    train = [finding.point.metrics.get("train", {}) for finding in found]
    return {
        "pass_at_1": sweep.objective != PASS_AT_1 and any(pass_at_1(f.point) is not None for f in found),
        "base": any(finding.base for finding in found),
        "best": any(finding.best for finding in found),
        "validation": any("validation_loss_kept" in metrics for metrics in train),
        "ends": any(finding.low is not None for finding in found),
        "grey": any(
            len({others(sweep, p, key) for p in sweep.finished}) > sweep_plots.MANY for key in sweep.keys
        ),
        "training": any("seconds" in metrics for metrics in train),
    }


def pass_at_1(point: Point) -> float | None:
    value: float | None = point.metrics.get("evaluate/tuned", {}).get("pass_at_1")
    return value


def base_line(sweep: SweepEvidence) -> dict[str, str] | None:
    """The base model's line of the table."""
    found, form = base_value(sweep), shown_value(sweep.objective)
    if found is None:
        return None
    value, low, high = found
    return {"value": form(value), "ends": ends(sweep, low, high)}


def ends(sweep: SweepEvidence, low: float | None, high: float | None) -> str:
    form = shown_value(sweep.objective)
    return "" if low is None or high is None else f"{form(low)} to {form(high)}"


def table(sweep: SweepEvidence, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Lines of the table of points, the best first, those without an objective last."""
    sign = 1 if sweep.direction == "minimize" else -1
    numbered = list(enumerate(found, 1))
    numbered.sort(
        key=lambda item: (item[1].point.value is None, not item[1].is_best, sign * (item[1].point.value or 0))
    )
    return [line(sweep, place, finding) for place, finding in numbered]


def line(sweep: SweepEvidence, place: int, finding: Finding) -> dict[str, Any]:
    point, train = finding.point, finding.point.metrics.get("train", {})
    form, rate = shown_value(sweep.objective), pass_at_1(point)
    return {
        "number": place,
        "name": point.tried.name,
        "values": [
            (value, rounded(value)) for value in (point.tried.overrides.get(key, "") for key in sweep.keys)
        ],
        "value": "" if point.value is None else form(point.value),
        "ends": ends(sweep, finding.low, finding.high),
        "weak": is_weak(point),
        "is_best": finding.is_best,
        "pass_at_1": "" if rate is None else f"{100 * rate:.1f}%",
        "base": told_difference(finding.base),
        "best": told_difference(finding.best),
        "left_out": finding.left_out,
        "validation": told(train.get("validation_loss_kept"), lambda loss: f"{loss:.4f}"),
        "training": told(train.get("seconds"), format_duration),
        "speed": told(train.get("tokens_per_second"), lambda speed: f"{speed:,.0f} tokens/s"),
        "memory": format_memory(train.get("peak_memory_mib")),
        "status": point.tried.status,
        "take": f"dvc exp apply {shlex.quote(point.tried.name)}" if point.commit else "",
    }


def told(value: float | None, form: Any) -> str:
    return "" if value is None else form(value)


def told_difference(difference: Difference | None) -> dict[str, Any] | None:
    """Cells of a difference: points, p, p after Holm's correction."""
    if difference is None:
        return None
    p, p_holm = (format_p_value(value).removeprefix("= ") for value in (difference.p, difference.p_holm))
    return {
        "points": format_points(difference.value),
        "p": p,
        "p_holm": p_holm,
        "real": difference.beyond_noise,
    }


def unfinished(finding: Finding) -> dict[str, str] | None:
    """A failed or pruned point, with the last lines of its error."""
    tried = finding.point.tried
    if finding.point.value is not None:
        return None
    last = tried.error.strip().splitlines()[-ERROR_LINES:]
    return {"label": finding.label, "name": tried.name, "status": tried.status, "error": "\n".join(last)}


def draw(sweep: SweepEvidence, found: Sequence[Finding]) -> dict[str, bytes]:
    """All pictures as PNG, by name; one for each swept key that has something to show."""
    finished, best = [f for f in found if f.point.value is not None], best_point(sweep)
    if best is None:
        return {}
    drawn = {}
    for key in sweep.keys:
        with_key = [finding for finding in finished if key in finding.point.tried.overrides]
        if with_key:
            drawn[f"over {key}"] = over_key(sweep, key, with_key, best)
    curves = {f.label: f.point.curve for f in finished if f.point.curve}
    if curves:
        factor, what = unit(sweep)
        values = {f.label: factor * (f.point.value or 0) for f in finished}
        names = list(curves) if len(curves) <= sweep_plots.MANY else ["best"]
        height = 2.9 + sweep_plots.legend_height([f"{name} (best)" for name in names])
        top = next(f.label for f in finished if f.point is best)
        drawn["losses"] = render_png(sweep_plots.losses, curves, top, values, what, height=height)
    return drawn


def unit(sweep: SweepEvidence) -> tuple[float, str]:
    """What the objective is multiplied by in pictures, and its name with the unit."""
    name = shown_name(sweep.objective)
    return (100.0, f"{name} in %") if is_share(sweep.objective) else (1.0, name)


def over_key(sweep: SweepEvidence, key: str, found: Sequence[Finding], best: Point) -> bytes:
    factor, what = unit(sweep)
    scale = sweep_plots.scale_of([finding.point.tried.overrides[key] for finding in found])
    lines: dict[str, list[sweep_plots.Dot]] = {}
    for finding in found:
        low, high = (None if end is None else factor * end for end in (finding.low, finding.high))
        place = scale.places[finding.point.tried.overrides[key]]
        dot = sweep_plots.Dot(place, factor * (finding.point.value or 0), low, high)
        lines.setdefault(others(sweep, finding.point, key), []).append(dot)
    base, top = base_value(sweep), others(sweep, best, key)
    names = ["base model", *(lines if len(lines) <= sweep_plots.MANY else [top, "mean of all", "others"])]
    return render_png(
        sweep_plots.over_key,
        sweep_plots.shortened(key, 60),
        scale,
        lines,
        top,
        what,
        None if base is None else factor * base[0],
        sweep.objective.startswith(JUDGED) and any(is_weak(finding.point) for finding in found),
        height=2.6 + sweep_plots.legend_height(names),
    )


def others(sweep: SweepEvidence, point: Point, key: str) -> str:
    """What a point's other swept keys are; `tuned` where there are none."""
    short = short_keys(sweep.keys)
    pairs = [f"{short[k]} {rounded(value)}" for k, value in point.tried.overrides.items() if k != key]
    return sweep_plots.shortened(", ".join(pairs), 60) or "tuned"


def over_caption(sweep: SweepEvidence, key: str) -> str:
    name, short = shown_name(sweep.objective), short_keys(sweep.keys)
    rest = [short[k] for k in sweep.keys if k != key]
    many = len({others(sweep, point, key) for point in sweep.finished}) > sweep_plots.MANY
    lines = f", {'all' if many else 'a colour for each'} {' and '.join(rest)}" if rest else ""
    return f"{name} over {key}{lines}."
