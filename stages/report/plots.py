"""The report's pictures, each drawn on matplotlib axes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stages.common.comparison import PASSED
from stages.common.curve import CurveCells, column
from stages.common.page.plot_style import (
    BASE,
    INK,
    OTHER_COLOURS,
    PASS_COLOUR,
    SOURCE_COLOURS,
    TUNED,
    mark_weak_sandbox,
)


def plot_loss(axes: Axes, curve: Sequence[CurveCells]) -> None:
    axes.plot(*column(curve, "loss"), color=TUNED, linewidth=1.4, label="training")
    steps, values = column(curve, "validation_loss")
    if steps:
        axes.plot(steps, values, "o-", color="#ea580c", linewidth=1.4, markersize=4, label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def plot_learning_rate(axes: Axes, curve: Sequence[CurveCells]) -> None:
    axes.plot(*column(curve, "learning_rate"), color=TUNED, linewidth=1.4)
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def plot_pass_at_1(axes: Axes, base: Mapping[str, Any], tuned: Mapping[str, Any], weak: bool = False) -> None:
    """Draw bars of pass@1 in percent with 95% intervals."""
    mark_weak_sandbox(axes, weak)
    for place, (_, metrics, colour) in enumerate((("tuned", tuned, TUNED), ("base", base, BASE))):
        rate, low, high = (100 * metrics[f"pass_at_1{end}"] for end in ("", "_low", "_high"))
        axes.barh(place, rate, color=colour, height=0.55)
        axes.errorbar(rate, place, xerr=[[rate - low], [high - rate]], color=INK, capsize=5, linewidth=1.3)
        axes.annotate(
            f"{rate:.1f}%",
            (high, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )
    axes.set_yticks([0, 1], ["tuned", "base"])
    top = max(base["pass_at_1_high"], tuned["pass_at_1_high"])
    axes.set(xlabel="pass@1 in %; lines show 95% intervals", xlim=(0, min(112, 118 * top + 2)))
    axes.grid(axis="y", visible=False)


def plot_verdicts(axes: Axes, counts: Mapping[str, Mapping[str, int]], weak: bool = False) -> None:
    """Draw stacked bars of each model's verdicts.

    Args:
        counts: model -> verdict -> samples.
    """
    mark_weak_sandbox(axes, weak)
    totals: Counter[str] = Counter()
    for of_model in counts.values():
        totals.update(of_model)
    verdicts = [PASSED, *sorted(totals.keys() - {PASSED}, key=lambda verdict: (-totals[verdict], verdict))]
    left = [0] * len(counts)
    for number, verdict in enumerate(verdicts):
        colour = OTHER_COLOURS[(number - 1) % len(OTHER_COLOURS)] if number else PASS_COLOUR
        widths = [of_model.get(verdict, 0) for of_model in counts.values()]
        axes.barh(
            range(len(counts)), widths, left=left, color=colour, height=0.55, label=verdict.replace("_", " ")
        )
        for place, (of_model, width) in enumerate(zip(counts.values(), widths, strict=True)):
            if width >= 0.03 * max(1, sum(of_model.values())):
                axes.text(left[place] + width / 2, place, str(width), ha="center", va="center", color="white")
            left[place] += width
    axes.set_yticks(range(len(counts)), list(counts))
    axes.set(xlabel="samples")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(
        ncols=min(4, len(verdicts)),
        loc="outside lower center",
        fontsize=8,
        handlelength=1.2,
        columnspacing=1.2,
    )


def plot_rows_left(axes: Axes, rows_left: Mapping[str, Sequence[int]], steps: Sequence[str]) -> None:
    """Draw the rows left after each step, stacked by source: from all rows down to those kept.

    Sources beyond the number of colours are summed up as others.

    Args:
        rows_left: source -> rows left at each of `steps`.
        steps: names; the first is before any rule.
    """
    positions = range(len(steps))
    ordered = sorted(rows_left, key=lambda source: (-rows_left[source][0], source))
    named = ordered if len(ordered) <= len(SOURCE_COLOURS) else ordered[: len(SOURCE_COLOURS) - 1]
    layers = {source: rows_left[source] for source in named}
    if len(named) < len(ordered):
        others = [rows_left[source] for source in ordered[len(named) :]]
        layers[f"{len(others)} others"] = [sum(counts) for counts in zip(*others, strict=True)]
    start = [0] * len(steps)
    for (source, counts), colour in zip(layers.items(), SOURCE_COLOURS, strict=False):
        axes.barh(positions, counts, left=start, color=colour, height=0.66, label=source)
        start = [before + count for before, count in zip(start, counts, strict=True)]
    for position, total in enumerate(start):
        dropped = start[position - 1] - total if position else 0
        axes.annotate(
            f"{total:,}" + (f"  (-{dropped:,})" if dropped else ""),
            (total, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(positions, [step.replace("_", " ") for step in steps])
    axes.invert_yaxis()
    axes.set(xlabel="rows left", xlim=(0, 1.22 * max(1, start[0])))
    axes.grid(axis="y", visible=False)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(
        ncols=min(4, len(layers)), loc="outside lower center", fontsize=8, handlelength=1.2, columnspacing=1.2
    )


def plot_s_curve(axes: Axes, bands: int, rows: int, threshold: float, related: float) -> None:
    """Draw the chance that banding compares a pair of Jaccard similarity s: 1 - (1 - s^rows)^bands."""
    similarity = [step / 200 for step in range(201)]
    axes.plot(similarity, [1 - (1 - s**rows) ** bands for s in similarity], color=TUNED, linewidth=1.6)
    limits = {threshold: "dropped from here"}
    if related < threshold:
        limits[related] = "related from here"
    for limit, label in limits.items():
        chance = 1 - (1 - limit**rows) ** bands
        axes.axvline(limit, color=BASE, linewidth=1, linestyle="--")
        axes.annotate(
            f"{label}: {chance:.1%}" if chance < 0.9995 else f"{label}: over 99.9%",
            (limit, 0.5 if limit == threshold else 0.25),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(
        xlabel="Jaccard similarity of two rows",
        ylabel="chance of being compared",
        xlim=(0, 1),
        ylim=(0, 1.03),
    )


def plot_cluster_sizes(axes: Axes, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Draw how many groups of duplicates have 2, 3, 4, 5-9, ... rows.

    Args:
        sizes: rule -> size bin -> groups; bins without a group may be missing.
    """
    bins = sorted(
        {name for groups in sizes.values() for name in groups}, key=lambda name: int(name.split("-")[0])
    )
    width = 0.8 / len(sizes)
    for number, (rule, groups) in enumerate(sizes.items()):
        places = [place + (number - (len(sizes) - 1) / 2) * width for place in range(len(bins))]
        bars = axes.bar(
            places,
            [groups.get(name, 0) for name in bins],
            width=0.94 * width,
            label=rule,
            color=SOURCE_COLOURS[number],
        )
        axes.bar_label(bars, [str(groups.get(name, "")) for name in bins], fontsize=7, padding=2)
    axes.set_xticks(range(len(bins)), bins)
    axes.set(xlabel="rows in a group", ylabel="groups")
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.legend()


def plot_histogram(axes: Axes, edges: Sequence[float], counts: Sequence[int], ylabel: str) -> None:
    """Draw a histogram over tokens; `edges` are the upper edges of bins of equal width, the first from 0."""
    width = edges[0]
    axes.bar([edge - width / 2 for edge in edges], counts, width=0.92 * width, color=TUNED)
    axes.set(xlabel="tokens", ylabel=ylabel, xlim=(0, edges[-1]))
    axes.grid(axis="x", visible=False)


def plot_rows_per_pack(axes: Axes, packs: Sequence[int]) -> None:
    """Draw how many packs hold 1, 2, ... rows."""
    axes.bar(range(1, len(packs) + 1), packs, color=TUNED, width=0.85)
    axes.set(xlabel="rows in a pack", ylabel="packs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
