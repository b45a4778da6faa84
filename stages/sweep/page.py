"""The page of a sweep: words, one table, and one plot of the objective over each swept key."""

from pathlib import Path

from stages.common.core.files import atomic_write
from stages.common.page.figures import STYLE_FOLDER, figure_embedder
from stages.common.page.plot_style import render_png
from stages.sweep.points_table import score_cell, shown_columns, table_rows, write_csv_table
from stages.sweep.results import Sweep
from stages.sweep.sweep_plots import plot_over_key
from stages.sweep.words import describe_sweep, list_cautions, objective_name

TEMPLATE_FOLDER = Path(__file__).parent
ERROR_LINES = 12


def write_report(folder: Path, sweep: Sweep) -> None:
    """Write index.html and sweep.csv into `folder`; the same results give the same bytes."""
    page = render_sweep(sweep)
    write_csv_table(folder / "sweep.csv", sweep)
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(page, "utf-8")


def render_sweep(sweep: Sweep) -> str:
    """Return the page. All values in it are escaped, except the pictures. The style sheet is the report's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader((TEMPLATE_FOLDER, STYLE_FOLDER)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        key: render_png(plot_over_key, sweep, key, height=2.6)
        for key in sweep.keys
        if any(key in point.outcome.overrides for point in sweep.finished)
    }
    rows, unfinished = table_rows(sweep), [point.outcome for point in sweep.points if point.value is None]
    return environment.get_template("page.html.j2").render(
        spec=sweep.spec,
        keys=sweep.keys,
        objective=objective_name(sweep.spec.objective),
        cautions=list_cautions(sweep),
        words=describe_sweep(sweep),
        base=score_cell(sweep, *sweep.base_value) if sweep.base_value else "",
        rows=rows,
        best=sweep.best.name if sweep.best else "",
        adoptable={point.name for point in sweep.points if point.commit},
        columns=shown_columns(rows),
        pictures=pictures,
        figure=figure_embedder(pictures),
        errors=[
            (o.name, o.status, "\n".join(o.error.strip().splitlines()[-ERROR_LINES:])) for o in unfinished
        ],
    )
