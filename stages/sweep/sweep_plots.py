"""The pictures of a sweep: the objective over each swept key, and the loss curves of all points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator, NullLocator

from stages.common.curve import CurveCells, column
from stages.common.page.plot_style import BASE, INK, SOURCE_COLOURS, TUNED, mark_weak_sandbox

COLOURS = [SOURCE_COLOURS[position] for position in (0, 4, 5, 2, 7, 3, 6, 1)]  # neighbours differ
MANY = len(COLOURS)  # more lines than this cannot be told apart by colour
TICKS = 10  # an axis labels each value up to this number
NOT_BEST = "#b6bfcd"
# plasma without its yellow
WARM = LinearSegmentedColormap.from_list("warm", matplotlib.colormaps["plasma"](range(0, 226, 5)))
Colour = tuple[float, float, float, float] | str


@dataclass(frozen=True)
class Dot:
    """A point over one of its swept keys."""

    # On the axis
    position: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scale:
    """The axis of a swept key."""

    # By the value as it was given
    positions: dict[str, float]
    log: bool
    numeric: bool


def scale_of(values: Sequence[str]) -> Scale:
    """Return the axis of a key's values: numeric if all are numbers, logarithmic if spaced like powers."""
    numbers = {value: as_number(value) for value in values}
    found = {value: number for value, number in numbers.items() if number is not None}
    if len(found) < len(numbers):
        return Scale(
            {value: float(position) for position, value in enumerate(dict.fromkeys(values))}, False, False
        )
    return Scale(found, like_powers(sorted(set(found.values()))), True)


def as_number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def like_powers(values: Sequence[float]) -> bool:
    """Whether ascending numbers are spaced more evenly on a logarithmic axis; two numbers: a factor of 10 apart.

    >>> like_powers([4, 8, 16, 32]), like_powers([10, 20, 30])
    (True, False)
    """
    if len(values) < 2 or values[0] <= 0:
        return False
    if len(values) == 2:
        return values[1] >= 10 * values[0]
    return unevenness([math.log(value) for value in values]) < unevenness(values)


def unevenness(values: Sequence[float]) -> float:
    gaps = [after - before for before, after in pairwise(values)]
    return max(gaps) / min(gaps)


def plot_over_key(
    axes: Axes,
    key: str,
    scale: Scale,
    lines: Mapping[str, Sequence[Dot]],
    best: str,
    what: str,
    base: float | None = None,
    weak: bool = False,
) -> None:
    """Plot the objective over one swept key.

    Args:
        axes: to draw on.
        key: its name below the axis.
        scale: of that axis.
        lines: what the other swept keys are -> the points that have it.
        best: which of the lines holds the best point; where there are many lines it alone has a colour.
        what: the objective's name and unit.
        base: the base model's own value.
        weak: whether points were judged in a weak sandbox.
    """
    mark_weak_sandbox(axes, weak)
    if base is not None:
        axes.axhline(base, color=BASE, linestyle="--", linewidth=1.2, label="base model")
    many = len(lines) > MANY
    for number, (name, dots) in enumerate(lines.items()):
        shift = 0.0 if many else number - (len(lines) - 1) / 2
        colour = COLOURS[number % MANY]
        if many:
            colour = TUNED if name == best else NOT_BEST
        plot_line(
            axes,
            scale,
            dots,
            shift,
            colour,
            name if not many or name == best else "",
            name == best or not many,
        )
    if many:
        mean(axes, [dot for dots in lines.values() for dot in dots])
    axis(axes, scale)
    axes.set(xlabel=key, ylabel=what)
    if many:
        axes.plot([], [], "o-", color=NOT_BEST, markersize=4, linewidth=0.8, label=f"{len(lines) - 1} others")
    if len(lines) > 1 or base is not None:
        legend(axes)


def mean(axes: Axes, dots: Sequence[Dot]) -> None:
    """Plot the mean of the points of each value, if there are several points per value."""
    positions: dict[float, list[float]] = {}
    for dot in dots:
        positions.setdefault(dot.position, []).append(dot.value)
    if 1 < len(positions) <= len(dots) / 2:
        means = [sum(values) / len(values) for _, values in sorted(positions.items())]
        axes.plot(sorted(positions), means, "--", color=INK, linewidth=1.4, label="mean of all", zorder=4)


def plot_line(
    axes: Axes, scale: Scale, dots: Sequence[Dot], shift: float, colour: str, name: str, strong: bool
) -> None:
    """Plot the points of one line with their intervals, shifted so that intervals do not overlap."""
    dots = sorted(dots, key=lambda dot: dot.position)
    positions = [shifted(scale, dot.position, shift) for dot in dots]
    form = "o-" if scale.numeric else "o"
    axes.plot(
        positions,
        [dot.value for dot in dots],
        form,
        color=colour,
        linewidth=1.5 if strong else 0.8,
        markersize=5 if strong else 3.5,
        label=name or None,
        zorder=3 if strong else 2,
    )
    ends = [(position, dot.value, dot.low, dot.high) for position, dot in zip(positions, dots, strict=True)]
    for position, value, low, high in ends:
        if strong and low is not None and high is not None:
            axes.errorbar(
                position,
                value,
                yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                color=colour,
                capsize=3,
                linewidth=1,
                alpha=0.75,
            )


def shifted(scale: Scale, position: float, shift: float) -> float:
    """Return a position on the axis, shifted by `shift` fiftieths of the axis' length."""
    low, high = min(scale.positions.values()), max(scale.positions.values())
    if scale.log:
        return position * (high / low) ** (shift / 50)
    return position + shift * ((high - low) or 1.0) / 50


def axis(axes: Axes, scale: Scale) -> None:
    """Name the values that were tried, as they were given, where there is room."""
    if scale.log:
        axes.set_xscale("log")
    positions = sorted(scale.positions.items(), key=lambda item: item[1])
    if len(positions) <= TICKS or not scale.numeric:
        axes.xaxis.set_major_locator(NullLocator())
        axes.xaxis.set_minor_locator(NullLocator())
        long = sum(len(shortened(value)) for value, _ in positions) > 60
        axes.set_xticks(
            [position for _, position in positions],
            [shortened(value) for value, _ in positions],
            rotation=30 if long else 0,
            ha="right" if long else "center",
        )
        axes.xaxis.set_minor_locator(NullLocator())
    if len(positions) == 1:
        axes.set_xlim(positions[0][1] - 1, positions[0][1] + 1)
    else:
        axes.margins(x=0.08)


def shortened(value: str, length: int = 24) -> str:
    """Return text for a picture: shortened, and escaped so that it is not read as a formula."""
    value = value if len(value) <= length else f"{value[: length - 1]}…"
    return value.replace("$", r"\$")


def legend(axes: Axes) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names))
    figure.legend(
        handles,
        names,
        ncols=columns(longest),
        loc="outside lower center",
        fontsize=8,
        handlelength=1.6,
        columnspacing=1.4,
    )


def columns(longest: int) -> int:
    """Return the number of columns of a legend whose longest name has `longest` letters."""
    return max(1, min(5, 92 // (longest + 8)))


def legend_height(names: Sequence[str]) -> float:
    """Return the height of the legend below the axes, in inches."""
    return 0.17 * math.ceil(len(names) / columns(max(map(len, names)))) if names else 0.0


def plot_losses(
    axes: Axes, curves: Mapping[str, Sequence[CurveCells]], best: str, values: Mapping[str, float], what: str
) -> None:
    """Plot loss curves: training thin, validation with markers; the best point on top.

    Args:
        axes: to draw on.
        curves: point -> rows of its train.csv.
        best: the best point.
        values: point -> objective, by which many curves are coloured.
        what: the objective's name and unit.
    """
    many = len(curves) > MANY
    colours = by_value(axes, {name: values[name] for name in curves}, what) if many else {}
    for number, (name, rows) in enumerate(curves.items()):
        colour: Colour = colours.get(name, COLOURS[number % MANY])
        top = name == best
        axes.plot(
            *column(rows, "loss"), color=colour, linewidth=0.4 if many else 0.7, alpha=0.3 if many else 0.55
        )
        steps, measured = column(rows, "validation_loss")
        label = None if many and not top else f"{name} (best)" if top and len(curves) > 1 else name
        axes.plot(
            steps,
            measured,
            "o-",
            color=INK if many and top else colour,
            linewidth=1.8 if top else 1.0,
            markersize=4 if top or not many else 2.5,
            label=label,
            zorder=4 if top else 3,
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes)


def by_value(axes: Axes, values: Mapping[str, float], what: str) -> dict[str, Colour]:
    """Return a colour for each point by its objective, and draw the colour scale beside the axes."""
    low, high = min(values.values()), max(values.values())
    scale = Normalize(low, high if high > low else low + 1)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(ScalarMappable(scale, WARM), ax=axes, label=what)
    return {name: WARM(float(scale(value))) for name, value in values.items()}
