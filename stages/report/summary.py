"""Print the results from the files of reports/: the table that `make demo` ends with.

python -m stages.report.summary
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from stages.common.comparison import (
    COMPARED_TARGETS,
    Comparison,
    compare_by_benchmark,
    compare_models,
    describe_smallest_difference,
    format_difference,
    format_pass_at_1_interval,
    pass_counts,
)
from stages.common.core.stage import errors_as_message
from stages.common.page.formats import (
    format_number,
    format_p_value,
    format_percent,
    format_points,
)
from stages.common.statistics import pass_at_k_interval
from stages.report.caveats import find_caveats, find_notes
from stages.report.inputs import ReportInputs, judged_in_weak_sandbox, read_report_inputs
from stages.report.scores import compare_clean_part, describe_quantized
from stages.report.sections import cost_table, describe_isolation, describe_losses, format_both, format_solved

WIDTH_CHARACTERS = 100
LABEL_CHARACTERS = 12  # width of the first column


def format_summary(inputs: ReportInputs, comparison: Comparison) -> str:
    """Return the table as text, at most 100 characters wide."""
    metrics, evaluations = inputs.metrics, inputs.evaluations
    sandbox = format_both(*(describe_isolation(evaluation) for evaluation in evaluations.values()))
    lines = [
        "",
        f"{inputs.benchmark} pass@1",
        *(labelled_line(target, format_score(evaluation)) for target, evaluation in evaluations.items()),
        *(f"    {line}" for line in benchmark_summaries(inputs)),
        labelled_line("difference", summarise_difference(comparison)),
        labelled_line("verdict", summarise_verdict(comparison)),
        labelled_line("detectable", describe_smallest_difference(comparison)),
        labelled_line("clean part", summarise_clean_part(compare_clean_part(inputs), inputs)),
        *(labelled_line("warning", caveat) for caveat in find_caveats(inputs)),
        *(labelled_line("note", note) for note in find_notes(inputs)),
        "",
        labelled_line("training", summarise_training(metrics["train"])),
        labelled_line("loss", describe_losses(metrics["train"])),
        *(labelled_line("quantized", told) for told in [describe_quantized(inputs)] if told),
        labelled_line("sandbox", f"level {sandbox}"),
        "",
        "time of each stage's last run here",
        *time_lines(metrics),
        "",
        labelled_line("report", "reports/index.html"),
        labelled_line("MLflow", "make ui"),
        "",
    ]
    return "\n".join(lines)


def labelled_line(label: str, text: str) -> str:
    """Return a label and its text, wrapped below itself."""
    return textwrap.fill(
        text,
        WIDTH_CHARACTERS,
        initial_indent=f"  {label:<{LABEL_CHARACTERS}}",
        subsequent_indent=" " * (2 + LABEL_CHARACTERS),
    )


def format_score(evaluation: Mapping[str, Any]) -> str:
    parts = [
        format_percent(evaluation["pass_at_1"]),
        f"95% interval {format_pass_at_1_interval(evaluation)}",
        format_solved(evaluation),
    ]
    return "   ".join([*parts, "WEAK SANDBOX"] if judged_in_weak_sandbox(evaluation) else parts)


def benchmark_summaries(inputs: ReportInputs) -> list[str]:
    """Return a line for each benchmark, where there are several."""
    parts = compare_by_benchmark(inputs.samples["base"], inputs.samples["tuned"])
    width, lines = max(map(len, parts)), []
    for name, (comparison, p) in parts.items() if len(parts) > 1 else ():
        base, tuned = (format_solved(m["benchmarks"][name]) for m in inputs.evaluations.values())
        split = f"{len(comparison.won)} won, {len(comparison.lost)} lost, p {format_p_value(p)} (Holm)"
        lines.append(f"{name:<{width}}  {base} to {tuned}: {split}")
    return lines


def summarise_difference(comparison: Comparison) -> str:
    return f"{len(comparison.won)} problems won, {len(comparison.lost)} lost: {format_difference(comparison)}"


def summarise_verdict(comparison: Comparison) -> str:
    """Say whether the difference is more than noise."""
    noise = "more than noise" if comparison.beyond_noise else "not more than noise"
    return f"{noise} ({comparison.test_name}, p {format_p_value(comparison.p)})"


def summarise_clean_part(clean: Comparison | None, inputs: ReportInputs) -> str:
    """Return the scores on the problems that no training row resembles."""
    if clean is None:
        reason = (
            "clean did not compare its rows with this benchmark"
            if inputs.near is None
            else "every problem resembles a training row"
        )
        return f"none: {reason}"
    base, tuned = (
        format_percent(pass_at_k_interval(pass_counts(clean.problems, target), 1)[0])
        for target in COMPARED_TARGETS
    )
    return (
        f"{len(clean.problems)} problems that no training row resembles: base {base}, tuned {tuned}, "
        f"{format_points(clean.difference)} points ({format_points(clean.low)} to "
        f"{format_points(clean.high)})"
    )


def summarise_training(train: Mapping[str, Any]) -> str:
    return f"{format_number(train['tokens_trained'])} tokens in {format_number(train['steps'])} steps"


def time_lines(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one line per stage that ran here, and the total."""
    table = cost_table(metrics)
    rows = [*((line["stage"], line["time"]) for line in table["lines"]), ("total", table["total"])]
    return [f"  {name:<{LABEL_CHARACTERS + 4}}{time:>12}" for name, time in rows]


if __name__ == "__main__":
    with errors_as_message("summary"):
        report_inputs = read_report_inputs()
        models = compare_models(report_inputs.samples["base"], report_inputs.samples["tuned"])
        print(format_summary(report_inputs, models))
