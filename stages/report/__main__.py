"""Turn the files in reports/ into a page that people can read, and its pictures.

    python -m stages.report    # what `dvc repro report` runs; open reports/index.html

What the comparison of the two models comes to is in reports/report.json too. The page stands alone: styles and pictures are in it, it needs no network and no JavaScript. The pictures are
also in reports/plots, but for those that DVC draws from reports/train.csv itself. The same files give the same bytes.
"""

from pathlib import Path
from typing import Any

from stages.common.comparison import Comparison, compare, smallest, verdict
from stages.common.files import replacing
from stages.common.page.figures import STYLE, figures
from stages.common.page.plots import picture
from stages.common.stage import Settings, run
from stages.report import data_sections, plots, scores, sections
from stages.report.caveats import cautions
from stages.report.inputs import TARGETS, Evidence, read_evidence, weak

PAGE = Path("reports/index.html")
PLOTS = Path("reports/plots")
DRAWN_BY_DVC = {
    "loss",
    "learning_rate",
}  # dvc.yaml's plots of reports/train.csv: `dvc plots` would show them twice
TEMPLATES = (Path(__file__).parent, STYLE)


def main(settings: Settings) -> dict[str, Any]:
    evidence = read_evidence()
    comparison = compare(evidence.samples["base"], evidence.samples["tuned"])
    clean = scores.clean_part(evidence)
    pictures = draw(evidence)
    page = render(settings.report.title, evidence, comparison, clean, pictures)
    with replacing(PLOTS) as folder:
        folder.mkdir()
        for name, png in pictures.items():
            if name not in DRAWN_BY_DVC:
                (folder / f"{name}.png").write_bytes(png)
    with replacing(PAGE) as temporary:
        temporary.write_text(page, "utf-8")
    print(f"report: {PAGE}")
    return scores.figures(evidence, comparison, clean)


def draw(evidence: Evidence) -> dict[str, bytes]:
    """All pictures as PNG, by name."""
    metrics, curve = evidence.metrics, evidence.curve
    bars = metrics["pack"]["histograms"]
    counts = {target: metrics[f"evaluate/{target}"]["verdicts"] for target in TARGETS}
    is_weak = any(weak(metrics[f"evaluate/{target}"]) for target in TARGETS)
    clean, order = metrics["clean"], data_sections.rules(evidence.config)
    steps = data_sections.funnel(clean, order)["rules"]
    pictures = {
        "pass_at_1": picture(
            plots.pass_at_1, *(metrics[f"evaluate/{t}"] for t in TARGETS), is_weak, height=1.9
        ),
        "verdicts": picture(plots.verdicts, counts, is_weak, height=1.9),
        "loss": picture(plots.loss, curve),
        "learning_rate": picture(plots.learning_rate, curve),
        "lengths": picture(plots.histogram, bars["tokens"], bars["rows"], "rows"),
        "packs": picture(plots.histogram, bars["tokens"], bars["packs"], "packs"),
        "documents": picture(plots.per_pack, bars["packs_by_documents"]),
    }
    sizes = {rule: groups for rule, groups in clean.get("cluster_sizes", {}).items() if groups}
    if sizes:
        pictures["clusters"] = picture(plots.clusters, sizes)
    if "near" in clean:
        near = clean["near"]
        pictures["s_curve"] = picture(
            plots.s_curve, near["bands"], near["rows_a_band"], near["threshold"], near["related"]
        )
    if steps:
        left = data_sections.remaining(clean, steps)
        pictures["funnel"] = picture(plots.funnel, left, ["rows in", *steps], height=1.4 + 0.3 * len(steps))
    return pictures


def render(
    title: str,
    evidence: Evidence,
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
        model=sections.model(metrics["base"]),
        benchmark=metrics["evaluate/tuned"]["benchmark"],
        several=comparison.several,
        cards=sections.cards(evidence, comparison),
        cautions=cautions(evidence),
        verdict=verdict(comparison),
        smallest=smallest(comparison),
        test=comparison.test,
        scores=scores.score_rows(evidence, comparison, clean),
        clean_verdict=scores.clean_verdict(clean) if evidence.near else "",
        clean_words=scores.clean_words(evidence, clean),
        near=scores.near_rows(evidence),
        judged=sections.judged(evidence),
        pairs=comparison.pairs,
        changed=[*comparison.won, *comparison.lost],
        outcome_words=sections.OUTCOMES,
        same=sections.same(comparison),
        trained=sections.trained(evidence),
        merge=sections.merged(metrics["merge"]),
        merge_words=sections.merged_words(metrics["merge"]),
        funnel=data_sections.funnel(metrics["clean"], data_sections.rules(config)),
        cleaned=data_sections.cleaned(metrics["clean"]),
        pack_drops=", ".join(f"{n} ({why})" for why, n in metrics["pack"]["rows_dropped"].items()),
        packing=data_sections.packing(metrics["pack"]),
        cost=sections.cost(metrics),
        sources=data_sections.sources(config, metrics["fetch"]),
        left_out=data_sections.left_out(metrics["fetch"]),
        config_hash=sections.config_hash(evidence.config_text),
        config_text=evidence.config_text,
        number=sections.number,
        pictures=pictures,
        figure=figures(pictures),
    )


if __name__ == "__main__":
    run("report", main)
