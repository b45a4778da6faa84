"""The model card and the data card, in the hub's format, from reports/."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.comparison import compare_by_benchmark, compare_models, format_pass_at_1_interval
from stages.common.page.formats import format_number, format_p_value, format_percent
from stages.common.spdx import licence_ids
from stages.report.caveats import find_caveats, find_notes
from stages.report.inputs import ReportInputs
from stages.report.sections import describe_isolation, describe_losses, describe_sampling
from stages.report.summary import summarise_difference, summarise_training, summarise_verdict

ROWS_OF_A_SIZE = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
Rows = Counter[tuple[str, str]]


def card_licence(licences: Sequence[str]) -> str:
    """Return the hub's name for one licence, `other` for several or one of your own."""
    return (
        licences[0].lower() if len(licences) == 1 and not licences[0].startswith("LicenseRef-") else "other"
    )


def model_card(inputs: ReportInputs, rows: Rows, name: str, origin: str) -> str:
    """Return README.md of the model's repository.

    Args:
        name: of the repository, owner/name.
        origin: how to make the model again.
    """
    from huggingface_hub import EvalResult, ModelCardData

    base, tuned = inputs.metrics["base"], inputs.evaluations["tuned"]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=benchmark,
            dataset_name=benchmark,
            metric_type="pass@1",
            metric_value=round(scores["pass_at_1"], 6),
        )
        for benchmark, scores in tuned["benchmarks"].items()
    ]
    data = ModelCardData(
        license=card_licence([base["licence"]]) if base.get("licence") else "other",
        base_model=base["name"] if base["kind"] == "hub" else None,
        language="code",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["code", "qlora", "codetune"],
        model_name=name.rpartition("/")[2],
        eval_results=results,
    )
    comparison = compare_models(inputs.samples["base"], inputs.samples["tuned"])
    train = inputs.metrics["train"]
    return "\n".join(
        [
            f"---\n{data.to_yaml().strip()}\n---",
            f"# {name.rpartition('/')[2]}",
            "",
            f"{base['name']} ({base['licence']}), fine-tuned with QLoRA by codetune, adapter merged.",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = AutoModelForCausalLM.from_pretrained("{name}")',
            "```",
            "",
            f"It was trained on prompts of style `{inputs.config['prompt']['style']}`.",
            "",
            "## Evaluation",
            "",
            *score_lines(inputs),
            "",
            f"Difference: {summarise_difference(comparison)}; {summarise_verdict(comparison)}.",
            "",
            f"Sampling: {describe_sampling(tuned)}. Generated code ran in a sandbox: {describe_isolation(tuned)}.",
            "",
            *bullets([*find_caveats(inputs), *find_notes(inputs)]),
            "## Training data",
            "",
            *source_table(rows),
            "",
            *contamination(inputs.metrics["clean"]),
            "## Training",
            "",
            *bullets(
                [
                    f"{summarise_training(train)}; base held as {train.get('quantization', 'none')}.",
                    describe_losses(train),
                ]
            ),
            "## Limits",
            "",
            "It writes code that may be wrong or unsafe: run it as code of a stranger. The score holds for the "
            "benchmarks above, with these settings. Benchmarks' near copies were taken out of the training rows by "
            "the checks named above; what the base model had seen is not known.",
            "",
            "## Reproduce",
            "",
            origin,
            "",
        ]
    )


def data_card(inputs: ReportInputs, rows: Rows, name: str, origin: str) -> str:
    """Return README.md of the data set's repository."""
    from huggingface_hub import DatasetCardData

    licences = sorted({one for _, licence in rows for one in licence_ids(licence)})
    total = sum(rows.values())
    data = DatasetCardData(
        license=card_licence(licences),
        language="code",
        task_categories=["text-generation"],
        size_categories=[next((size for limit, size in ROWS_OF_A_SIZE if total < limit), "n>1M")],
        tags=["code", "codetune"],
        pretty_name=name.rpartition("/")[2],
    )
    clean = inputs.metrics["clean"]
    drops = {rule: count for rule, count in clean.get("dropped", {}).items() if count}
    return "\n".join(
        [
            f"---\n{data.to_yaml().strip()}\n---",
            f"# {name.rpartition('/')[2]}",
            "",
            f"{format_number(total)} rows that a code model was fine-tuned on, cleaned by codetune. Each row has its "
            "own licence in the column `licence`; its authors hold the copyright.",
            "",
            *source_table(rows),
            "",
            *contamination(clean),
            *(
                ["Dropped, by rule: " + ", ".join(f"{n} {rule}" for rule, n in drops.items()) + ".", ""]
                if drops
                else []
            ),
            "## Reproduce",
            "",
            origin,
            "",
        ]
    )


def score_lines(inputs: ReportInputs) -> list[str]:
    """Return the scores of both models, a row a benchmark, as Markdown."""
    base, tuned = (inputs.evaluations[target] for target in ("base", "tuned"))
    lines = ["| pass@1 | problems | base | tuned (95% interval) | p, Holm |", "|---|---|---|---|---|"]
    compared = compare_by_benchmark(inputs.samples["base"], inputs.samples["tuned"])
    for benchmark, scores in tuned["benchmarks"].items():
        p = format_p_value(compared[benchmark][1]).removeprefix("= ") if benchmark in compared else ""
        lines.append(
            f"| {benchmark} | {scores['problems']} | {format_percent(base['benchmarks'][benchmark]['pass_at_1'])} "
            f"| {format_percent(scores['pass_at_1'])} ({format_pass_at_1_interval(scores)}) | {p} |"
        )
    return lines


def source_table(rows: Rows) -> list[str]:
    found = [f"| {source} | {licence} | {count} |" for (source, licence), count in sorted(rows.items())]
    return ["| source | licence | rows |", "|---|---|---|", *found]


def contamination(clean: dict[str, Any]) -> list[str]:
    """Return what was checked against benchmarks and what it dropped."""
    checks = clean.get("decontaminated_by") or []
    if not checks:
        return ["The rows were not compared with any benchmark.", ""]
    dropped = ", ".join(f"{n} near {benchmark}" for benchmark, n in clean.get("contaminated", {}).items())
    return [f"Compared with the benchmarks by {', '.join(checks)}; dropped: {dropped or 'none'}.", ""]


def bullets(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def origin_of(commit: str, changed: Sequence[str], remote: str) -> str:
    """Return how to make the artifacts again, and whether that is certain."""
    where = f"git clone {remote} codetune && cd codetune\n" if remote else ""
    text = f"```bash\n{where}git checkout {commit}\nmake setup && source .venv/bin/activate\ndvc repro\n```"
    if changed:
        others = f", and {len(changed) - 1} other paths" if changed[1:] else ""
        text += f"\n\n**Not exactly:** {changed[0]} differed from the commit{others}."
    return text


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
