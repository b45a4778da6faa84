"""Print what came out, from the files of reports/ alone: the table that ends `make demo`.

python -m stages.report.summary
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from stages.common.comparison import (
    Comparison,
    compare_models,
    counts,
    describe_smallest_difference,
    format_difference,
    format_pass_at_1_interval,
)
from stages.common.page.formats import (
    format_duration,
    format_number,
    format_p_value,
    format_percent,
    format_points,
)
from stages.common.stage import one_message
from stages.common.statistics import pass_at_k_interval
from stages.report.caveats import find_caveats
from stages.report.inputs import (
    REPORTED_STAGES,
    TARGETS,
    ReportInputs,
    judged_in_weak_sandbox,
    read_report_inputs,
)
from stages.report.scores import compare_clean_part
from stages.report.sections import format_solved, judging_facts

LABEL = 12  # characters of the first column


def format_summary(evidence: ReportInputs, comparison: Comparison) -> str:
    """The table as text, at most 100 characters wide."""
    metrics = evidence.metrics
    benchmark = metrics["evaluate/tuned"]["benchmark"]
    lines = ["", f"{benchmark} pass@1"]
    lines += [line(target, score(metrics[f"evaluate/{target}"])) for target in TARGETS]
    lines += [
        line("difference", difference(comparison)),
        line("smallest", describe_smallest_difference(comparison)),
    ]
    lines += [line("clean part", part(compare_clean_part(evidence), evidence))]
    lines += [line("warning", text) for text in find_caveats(evidence)]
    lines += [""]
    lines += [line("trained", trained(metrics["train"]))]
    lines += [line("judge", f"isolation level {dict(judging_facts(evidence))['isolation of the judge']}")]
    lines += ["", "time", *times(metrics), ""]
    lines += [
        line("report", "reports/index.html"),
        line("MLflow", "make ui, then open http://127.0.0.1:5000"),
        "",
    ]
    return "\n".join(lines)


def line(label: str, text: str) -> str:
    return textwrap.fill(text, 100, initial_indent=f"  {label:<{LABEL}}", subsequent_indent=" " * (2 + LABEL))


def score(metrics: Mapping[str, Any]) -> str:
    return f"{format_percent(metrics['pass_at_1'])}   95% interval {format_pass_at_1_interval(metrics)}   {format_solved(metrics)}{'   WEAK SANDBOX' if judged_in_weak_sandbox(metrics) else ''}"


def difference(comparison: Comparison) -> str:
    """Won, lost, and whether it is more than noise."""
    noise = "more than noise" if comparison.beyond_noise else "not more than noise"
    split = (
        f"{len(comparison.won)} problems won, {len(comparison.lost)} lost, {format_difference(comparison)}"
    )
    return f"{split}: {noise} ({comparison.test}, p {format_p_value(comparison.p)})"


def part(clean: Comparison | None, evidence: ReportInputs) -> str:
    """The scores over the problems that no training row came near."""
    if clean is None:
        why = (
            "not compared with the training rows"
            if evidence.near is None
            else "every problem is near a training row"
        )
        return f"none: {why}"
    base, tuned = (
        format_percent(pass_at_k_interval(counts(clean.pairs, target), 1)[0]) for target in TARGETS
    )
    ends = f"{format_points(clean.low)} to {format_points(clean.high)}"
    return (
        f"{len(clean.pairs)} problems that no training row is near: base {base}, tuned {tuned}, "
        f"{format_points(clean.difference)} points ({ends})"
    )


def trained(train: Mapping[str, Any]) -> str:
    return f"{format_number(train['tokens_trained'])} tokens in {format_number(train['steps'])} steps"


def times(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a stage, and the total."""
    seconds = {stage: metrics[stage]["seconds"] for stage in REPORTED_STAGES if "seconds" in metrics[stage]}
    width = LABEL + 4
    lines = [
        f"  {stage.replace('/', ' '):<{width}}{format_duration(value):>12}"
        for stage, value in seconds.items()
    ]
    return [*lines, f"  {'total':<{width}}{format_duration(sum(seconds.values())):>12}"]


if __name__ == "__main__":
    with one_message("summary"):
        found = read_report_inputs()
        print(format_summary(found, compare_models(found.samples["base"], found.samples["tuned"])))
