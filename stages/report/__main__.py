"""Turn the files in reports/ into a page for people, reports/index.html, and its pictures.

    python -m stages.report    # what `dvc repro report` runs; open reports/index.html

The comparison of the two models also goes into reports/report.json. The page is self-contained: styles and
pictures are embedded, and it needs no network and no JavaScript. The pictures are in reports/plots too,
except those that DVC itself draws from reports/train.csv. The same files give the same bytes: what differs from run
to run, time and memory, is on a page of its own, reports/times.html, which DVC does not keep.
"""

from pathlib import Path
from typing import Any

from stages.common.comparison import (
    Comparison,
    ProblemOutcome,
    compare_models,
    describe_smallest_difference,
    describe_verdict,
)
from stages.common.core.files import atomic_folder, atomic_write
from stages.common.core.stage import Settings, run
from stages.common.page.figures import STYLE_FOLDER, figure_embedder
from stages.common.page.formats import format_number
from stages.common.page.plot_style import render_png
from stages.report import data_sections, plots, scores, sections
from stages.report.caveats import find_caveats, find_notes
from stages.report.highlight import highlight_pair
from stages.report.inputs import ReportInputs, judged_in_weak_sandbox, read_report_inputs

PAGE = Path("reports/index.html")
TIMES_PAGE = Path("reports/times.html")
PLOTS = Path("reports/plots")
# dvc.yaml plots these from reports/train.csv: `dvc plots` would show them twice
DRAWN_BY_DVC = {"loss", "learning_rate"}
TEMPLATES = (Path(__file__).parent, STYLE_FOLDER)


def main(settings: Settings) -> dict[str, Any]:
    inputs = read_report_inputs()
    comparison = compare_models(inputs.samples["base"], inputs.samples["tuned"])
    clean = scores.compare_clean_part(inputs)
    pictures = draw_plots(inputs)
    page = render_page(settings.report.title, inputs, comparison, clean, pictures)
    with atomic_folder(PLOTS) as folder:
        for name, png in pictures.items():
            if name not in DRAWN_BY_DVC:
                (folder / f"{name}.png").write_bytes(png)
    for path, text in ((PAGE, page), (TIMES_PAGE, render_times(settings.report.title, inputs))):
        with atomic_write(path) as temporary:
            temporary.write_text(text, "utf-8")
    print(f"report: {PAGE}")
    return scores.report_metrics(inputs, comparison, clean)


def draw_plots(inputs: ReportInputs) -> dict[str, bytes]:
    """Draw all pictures as PNG, by name."""
    curve, clean, evaluations = inputs.curve, inputs.metrics["clean"], inputs.evaluations
    bins = inputs.metrics["pack"]["histograms"]
    verdicts = {target: evaluation["verdicts"] for target, evaluation in evaluations.items()}
    weak = any(map(judged_in_weak_sandbox, evaluations.values()))
    pictures = {
        "pass_at_1": render_png(plots.plot_pass_at_1, *evaluations.values(), weak, height=1.9),
        "verdicts": render_png(plots.plot_verdicts, verdicts, weak, height=1.9),
        "loss": render_png(plots.plot_loss, curve),
        "learning_rate": render_png(plots.plot_learning_rate, curve),
        "lengths": render_png(plots.plot_histogram, bins["tokens"], bins["rows"], "rows"),
        "packs": render_png(plots.plot_histogram, bins["tokens"], bins["packs"], "packs"),
        "documents": render_png(plots.plot_rows_per_pack, bins["packs_by_documents"]),
    }
    sizes = {rule: groups for rule, groups in clean.get("cluster_sizes", {}).items() if groups}
    if sizes:
        pictures["clusters"] = render_png(plots.plot_cluster_sizes, sizes)
    if "near" in clean:
        near = clean["near"]
        pictures["s_curve"] = render_png(
            plots.plot_s_curve, near["bands"], near["rows_a_band"], near["threshold"], near["related"]
        )
    rules = data_sections.drop_table(clean, data_sections.rules_in_order(inputs.config))["rules"]
    if rules:
        rows_left = data_sections.rows_left_by_rule(clean, rules)
        pictures["funnel"] = render_png(
            plots.plot_rows_left, rows_left, ["rows in", *rules], height=1.4 + 0.3 * len(rules)
        )
    return pictures


def render_page(
    title: str,
    inputs: ReportInputs,
    comparison: Comparison,
    clean: Comparison | None,
    pictures: dict[str, bytes],
) -> str:
    """Render the page. Everything put into it is escaped, except the pictures."""
    metrics, config = inputs.metrics, inputs.config
    return load_template("page.html.j2").render(
        title=title,
        benchmark=inputs.benchmark,
        has_several_samples=comparison.has_several_samples,
        cards=sections.headline_cards(inputs, comparison),
        headline=sections.headline(inputs, comparison),
        caveats=find_caveats(inputs),
        notes=find_notes(inputs),
        verdict=describe_verdict(comparison),
        smallest_difference=describe_smallest_difference(comparison),
        methods=scores.describe_methods(comparison, len(inputs.evaluations["tuned"]["benchmarks"])),
        scores=scores.score_table(inputs, comparison, clean),
        clean_verdict=scores.describe_clean_verdict(clean) if inputs.near else "",
        clean_part=scores.describe_clean_part(inputs, clean),
        near_problems=scores.near_problems_table(inputs),
        judging=sections.judging_facts(inputs),
        problems=comparison.problems,
        changed_problems=[
            (problem, *highlight_pair(problem.base["completion"], problem.tuned["completion"]))
            for problem in changed_by_benchmark(comparison)
        ],
        outcome_labels=sections.OUTCOME_LABELS,
        ties=sections.describe_ties(comparison),
        training=sections.training_facts(inputs),
        losses=sections.loss_facts(metrics["train"]),
        loss_sentence=sections.describe_losses(metrics["train"]),
        quantized_sentence=scores.describe_quantized(inputs),
        merge=sections.merge_facts(metrics["merge"]),
        merge_description=sections.describe_merge(metrics["merge"]),
        drops=data_sections.drop_table(metrics["clean"], data_sections.rules_in_order(config)),
        cleaning=data_sections.cleaning_facts(metrics["clean"]),
        pack_drops=", ".join(f"{n} ({reason})" for reason, n in metrics["pack"]["rows_dropped"].items()),
        packing=data_sections.packing_table(metrics["pack"]),
        sources=data_sections.sources_table(config, metrics["fetch"]),
        rejections=data_sections.rejection_table(metrics["fetch"]),
        config_hash=sections.text_sha256(inputs.config_text),
        config_text=inputs.config_text,
        format_number=format_number,
        pictures=pictures,
        figure=figure_embedder(pictures),
    )


def changed_by_benchmark(comparison: Comparison) -> list[ProblemOutcome]:
    """Return the problems won and lost, those of each benchmark together and the won ones first."""
    order = list(dict.fromkeys(problem.benchmark for problem in comparison.problems))
    return sorted((*comparison.won, *comparison.lost), key=lambda problem: order.index(problem.benchmark))


def render_times(title: str, inputs: ReportInputs) -> str:
    """Render the page of what the stages cost when they last ran here."""
    return load_template("times.html.j2").render(title=title, cost=sections.cost_table(inputs.metrics))


def load_template(name: str) -> Any:
    """Return a jinja2.Template of the report that escapes all values and refuses those that are missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name)


if __name__ == "__main__":
    run("report", main)
