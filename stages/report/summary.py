"""Print what came out, from the files of reports/ alone: the table that ends `make demo`.

python -m stages.report.summary
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from stages.common.comparison import Comparison, compare, counts, interval, points, smallest
from stages.common.page.formats import duration, equals, number, percent, signed
from stages.common.stage import one_message
from stages.common.statistics import pass_at
from stages.report.caveats import cautions
from stages.report.inputs import STAGES, TARGETS, Evidence, read_evidence, weak
from stages.report.scores import clean_part
from stages.report.sections import judged, solved

LABEL = 12  # characters of the first column


def summary(evidence: Evidence, comparison: Comparison) -> str:
    """The table as text, at most 100 characters wide."""
    metrics = evidence.metrics
    benchmark = metrics["evaluate/tuned"]["benchmark"]
    lines = ["", f"{benchmark} pass@1"]
    lines += [line(target, score(metrics[f"evaluate/{target}"])) for target in TARGETS]
    lines += [line("difference", difference(comparison)), line("smallest", smallest(comparison))]
    lines += [line("clean part", part(clean_part(evidence), evidence))]
    lines += [line("warning", text) for text in cautions(evidence)]
    lines += [""]
    lines += [line("trained", trained(metrics["train"]))]
    lines += [line("judge", f"isolation level {dict(judged(evidence))['isolation of the judge']}")]
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
    return f"{percent(metrics['pass_at_1'])}   95% interval {interval(metrics)}   {solved(metrics)}{'   WEAK SANDBOX' if weak(metrics) else ''}"


def difference(comparison: Comparison) -> str:
    """Won, lost, and whether it is more than noise."""
    noise = "more than noise" if comparison.beyond_noise else "not more than noise"
    split = f"{len(comparison.won)} problems won, {len(comparison.lost)} lost, {points(comparison)}"
    return f"{split}: {noise} ({comparison.test}, p {equals(comparison.p)})"


def part(clean: Comparison | None, evidence: Evidence) -> str:
    """The scores over the problems that no training row came near."""
    if clean is None:
        why = (
            "not compared with the training rows"
            if evidence.near is None
            else "every problem is near a training row"
        )
        return f"none: {why}"
    base, tuned = (percent(pass_at(counts(clean.pairs, target), 1)[0]) for target in TARGETS)
    ends = f"{signed(clean.low)} to {signed(clean.high)}"
    return (
        f"{len(clean.pairs)} problems that no training row is near: base {base}, tuned {tuned}, "
        f"{signed(clean.difference)} points ({ends})"
    )


def trained(train: Mapping[str, Any]) -> str:
    return f"{number(train['tokens_trained'])} tokens in {number(train['steps'])} steps"


def times(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a stage, and the total."""
    seconds = {stage: metrics[stage]["seconds"] for stage in STAGES if "seconds" in metrics[stage]}
    width = LABEL + 4
    lines = [f"  {stage.replace('/', ' '):<{width}}{duration(value):>12}" for stage, value in seconds.items()]
    return [*lines, f"  {'total':<{width}}{duration(sum(seconds.values())):>12}"]


if __name__ == "__main__":
    with one_message("summary"):
        found = read_evidence()
        print(summary(found, compare(found.samples["base"], found.samples["tuned"])))
