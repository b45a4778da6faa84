"""Turn the files in reports/ into a page that people can read, and its pictures.

    python -m stages.report    # what `dvc repro report` runs; open reports/index.html

What the comparison of the two models comes to is in reports/report.json too. The page stands alone: styles and pictures are in it, it needs no network and no JavaScript. The pictures are
also in reports/plots, but for those that DVC draws from reports/train.csv itself. The same files give the same bytes.
"""

from pathlib import Path
from typing import Any

from stages.common.comparison import (
    Comparison,
    compare_models,
    describe_smallest_difference,
    describe_verdict,
)
from stages.common.files import replacing
from stages.common.page.figures import STYLE_FOLDER, figure_embedder
from stages.common.page.plot_style import render_png
from stages.common.stage import Settings, run
from stages.report import data_sections, plots, scores, sections
from stages.report.caveats import find_caveats
from stages.report.inputs import TARGETS, ReportInputs, judged_in_weak_sandbox, read_report_inputs

PAGE = Path("reports/index.html")
PLOTS = Path("reports/plots")
DRAWN_BY_DVC = {
    "loss",
    "learning_rate",
}  # dvc.yaml's plots of reports/train.csv: `dvc plots` would show them twice
TEMPLATES = (Path(__file__).parent, STYLE_FOLDER)


def main(settings: Settings) -> dict[str, Any]:
    evidence = read_report_inputs()
    comparison = compare_models(evidence.samples["base"], evidence.samples["tuned"])
    clean = scores.compare_clean_part(evidence)
    pictures = draw_plots(evidence)
    page = render_page(settings.report.title, evidence, comparison, clean, pictures)
    with replacing(PLOTS) as folder:
        folder.mkdir()
        for name, png in pictures.items():
            if name not in DRAWN_BY_DVC:
                (folder / f"{name}.png").write_bytes(png)
    with replacing(PAGE) as temporary:
        temporary.write_text(page, "utf-8")
    print(f"report: {PAGE}")
    return scores.report_metrics(evidence, comparison, clean)


def draw_plots(evidence: ReportInputs) -> dict[str, bytes]:
    """All pictures as PNG, by name."""
    metrics, curve = evidence.metrics, evidence.curve
    bars = metrics["pack"]["histograms"]
    counts = {target: metrics[f"evaluate/{target}"]["verdicts"] for target in TARGETS}
    is_weak = any(judged_in_weak_sandbox(metrics[f"evaluate/{target}"]) for target in TARGETS)
    clean, order = metrics["clean"], data_sections.rules_in_order(evidence.config)
    steps = data_sections.drop_table(clean, order)["rules"]
    pictures = {
        "pass_at_1": render_png(
            plots.plot_pass_at_1, *(metrics[f"evaluate/{t}"] for t in TARGETS), is_weak, height=1.9
        ),
        "verdicts": render_png(plots.plot_verdicts, counts, is_weak, height=1.9),
        "loss": render_png(plots.plot_loss, curve),
        "learning_rate": render_png(plots.plot_learning_rate, curve),
        "lengths": render_png(plots.plot_histogram, bars["tokens"], bars["rows"], "rows"),
        "packs": render_png(plots.plot_histogram, bars["tokens"], bars["packs"], "packs"),
        "documents": render_png(plots.plot_rows_per_pack, bars["packs_by_documents"]),
    }
    sizes = {rule: groups for rule, groups in clean.get("cluster_sizes", {}).items() if groups}
    if sizes:
        pictures["clusters"] = render_png(plots.plot_cluster_sizes, sizes)
    if "near" in clean:
        near = clean["near"]
        pictures["s_curve"] = render_png(
            plots.plot_s_curve, near["bands"], near["rows_a_band"], near["threshold"], near["related"]
        )
    if steps:
        left = data_sections.rows_left_by_rule(clean, steps)
        pictures["funnel"] = render_png(
            plots.plot_rows_left, left, ["rows in", *steps], height=1.4 + 0.3 * len(steps)
        )
    return pictures


def render_page(
    title: str,
    evidence: ReportInputs,
    comparison: Comparison,
    clean: Comparison | None,
    pictures: dict[str, bytes],
) -> str:
    """The page. Whatever is put into it is escaped, but for the pictures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    metrics, config = evidence.metrics, evidence.config
    return environment.get_template("page.html.j2").render(
        title=title,
        model=sections.describe_model(metrics["base"]),
        benchmark=metrics["evaluate/tuned"]["benchmark"],
        several=comparison.several,
        cards=sections.headline_cards(evidence, comparison),
        cautions=find_caveats(evidence),
        verdict=describe_verdict(comparison),
        smallest=describe_smallest_difference(comparison),
        test=comparison.test,
        scores=scores.score_table(evidence, comparison, clean),
        clean_verdict=scores.describe_clean_verdict(clean) if evidence.near else "",
        clean_words=scores.describe_clean_part(evidence, clean),
        near=scores.near_problems_table(evidence),
        judged=sections.judging_facts(evidence),
        pairs=comparison.pairs,
        changed=[*comparison.won, *comparison.lost],
        outcome_words=sections.OUTCOME_LABELS,
        same=sections.describe_ties(comparison),
        trained=sections.training_facts(evidence),
        merge=sections.merge_facts(metrics["merge"]),
        merge_words=sections.describe_merge(metrics["merge"]),
        funnel=data_sections.drop_table(metrics["clean"], data_sections.rules_in_order(config)),
        cleaned=data_sections.cleaning_facts(metrics["clean"]),
        pack_drops=", ".join(f"{n} ({why})" for why, n in metrics["pack"]["rows_dropped"].items()),
        packing=data_sections.packing_table(metrics["pack"]),
        cost=sections.cost_table(metrics),
        sources=data_sections.sources_table(config, metrics["fetch"]),
        left_out=data_sections.rejection_table(metrics["fetch"]),
        config_hash=sections.text_sha256(evidence.config_text),
        config_text=evidence.config_text,
        number=sections.format_number,
        pictures=pictures,
        figure=figure_embedder(pictures),
    )


if __name__ == "__main__":
    run("report", main)
