"""The look of all pictures: colours, style, and PNG bytes that repeat from run to run."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIGURE_WIDTH = 5.4  # inches; the page shows pictures at half their pixels
BASE, TUNED, SOFT, INK = "#8a94a6", "#2563eb", "#dbe3f0", "#1f2937"
PASS_COLOUR = "#16a34a"
OTHER_COLOURS = ("#94a3b8", "#ef4444", "#f59e0b", "#8b5cf6", "#0ea5e9", "#d946ef", "#84cc16")
SOURCE_COLOURS = (
    "#2563eb",
    "#0ea5e9",
    "#14b8a6",
    "#84cc16",
    "#f59e0b",
    "#ef4444",
    "#d946ef",
    "#8b5cf6",
    "#94a3b8",
)
PLOT_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#c4cad4",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#eceff4",
    "xtick.color": "#5b6472",
    "ytick.color": "#5b6472",
    "legend.frameon": False,
}


def render_png(draw: Callable[..., None], *arguments: Any, height: float = 2.5) -> bytes:
    """Draw on fresh axes and return a PNG that holds neither a time nor a version."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "Agg", **PLOT_STYLE}):
        figure = Figure(figsize=(FIGURE_WIDTH, height), layout="constrained")
        draw(figure.subplots(), *arguments)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def mark_weak_sandbox(axes: Axes, weak: bool) -> None:
    """Mark a picture whose scores come from a weak sandbox: pictures get shared without their page."""
    if weak:
        axes.set_title("judged in a weak sandbox (level C)", color="#b91c1c", fontsize=9, weight="bold")
