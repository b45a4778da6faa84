"""The objective over a swept key, with 95% intervals."""

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from stages.common.page.plot_style import BASE, INK, TUNED, mark_weak_sandbox
from stages.sweep.results import Sweep
from stages.sweep.words import is_share, objective_name

NOT_BEST = "#8a97ab"
MOST_TICKS = 12  # values that an axis names one by one
SPREAD = (
    0.04  # of the axis: how far points of one value are drawn apart, so that their intervals do not overlap
)


def plot_over_key(axes: Axes, sweep: Sweep, key: str) -> None:
    """Plot each finished point over its value of a key; the best is blue, the base model a dashed line."""
    points = [point for point in sweep.finished if key in point.outcome.overrides]
    values = [point.outcome.overrides[key] for point in points]
    places, log = axis_places(values)
    factor = 100.0 if is_share(sweep.spec.objective) else 1.0
    name = objective_name(sweep.spec.objective)
    mark_weak_sandbox(axes, any(point.weak for point in points))
    if sweep.base_value:
        axes.axhline(factor * sweep.base_value[0], color=BASE, linestyle="--", linewidth=1.2)
        axes.annotate("base model", (1, factor * sweep.base_value[0]), xycoords=("axes fraction", "data"),
                      xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=8, color=INK)  # fmt: skip
    for point, value in zip(points, values, strict=True):
        same = [other for other, its in zip(points, values, strict=True) if its == value]
        shift = SPREAD * (same.index(point) - (len(same) - 1) / 2) / max(1, len(same) / 4)
        at, score = drawn_beside(places, places[value], shift, log), factor * (point.value or 0.0)
        low, high = (
            factor * end for end in point.interval(sweep.spec.objective) or (point.value or 0.0,) * 2
        )
        ends = [[max(0.0, score - low)], [max(0.0, high - score)]]
        colour, order = (TUNED, 4) if point.is_best else (NOT_BEST, 3)
        axes.errorbar(at, score, yerr=ends, fmt="o", color=colour, markersize=5, capsize=3, zorder=order)
    if log:
        axes.set_xscale("log")
    if len(places) <= MOST_TICKS:
        axes.set_xticks(list(places.values()), [shortened(value) for value in places])
        axes.minorticks_off()
    elif not all(map(is_finite_number, values)):
        axes.set_xticks([])
    axes.margins(x=0.12)
    axes.set(xlabel=shortened(key, 60), ylabel=f"{name} in %" if factor > 1 else name)


def axis_places(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Return where each value lies on its axis, and whether that is logarithmic.

    Numbers lie at their value, on a logarithmic axis if they are spaced like powers; others in order of appearance.
    """
    if not all(map(is_finite_number, values)):
        return {value: float(place) for place, value in enumerate(dict.fromkeys(values))}, False
    places = {value: float(value) for value in values}
    return places, like_powers(sorted(set(places.values())))


def is_finite_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def like_powers(values: Sequence[float]) -> bool:
    """Whether ascending numbers are spaced more evenly on a logarithmic axis; two numbers: a factor of 10 apart.

    >>> like_powers([4, 8, 16, 32]), like_powers([10, 20, 30])
    (True, False)
    """
    if len(values) < 2 or values[0] <= 0:
        return False
    if len(values) == 2:
        return values[1] >= 10 * values[0]
    ratios = [
        [b - a for a, b in pairwise(scale)] for scale in ([math.log(value) for value in values], values)
    ]
    on_log, plain = (max(gaps) / min(gaps) for gaps in ratios)
    return on_log < plain


def drawn_beside(places: dict[str, float], place: float, shift: float, log: bool) -> float:
    """Return a place moved by a share of the axis's length."""
    low, high = min(places.values()), max(places.values())
    return place * (high / low) ** shift if log else place + shift * ((high - low) or 1.0)


def shortened(text: str, length: int = 24) -> str:
    """Return text for a picture: shortened, and escaped so that it is not read as a formula."""
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    return text.replace("$", r"\$")
