"""Read everything that the report shows from the files of the other stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.comparison import COMPARED_TARGETS, PASSED, ProblemKey, problem_key
from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl, read_metrics
from stages.common.core.paths import QUANTIZED_SAMPLES
from stages.common.curve import CurveCells, read_curve

NEAR_FILE = Path("data/clean/near.jsonl")
REPORTED_STAGES = ("base", "fetch", "clean", "pack", "train", "merge", "evaluate/base", "evaluate/tuned")


@dataclass(frozen=True)
class ReportInputs:
    """What the report shows."""

    # Metrics file of each stage, by stage
    metrics: dict[str, dict[str, Any]]
    # Rows of reports/train.csv
    curve: list[CurveCells]
    # Lines of samples.jsonl, by target (base, tuned)
    samples: dict[str, list[dict[str, Any]]]
    # Lines of quantized_base.jsonl; None: the quantized base was not scored
    quantized: list[dict[str, Any]] | None
    # Lines of near.jsonl, by problem; None: clean did not compare its rows with all of these benchmarks
    near: dict[ProblemKey, dict[str, Any]] | None
    config_text: str

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config_text)

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Metrics of the evaluate stage, by target."""
        return {target: self.metrics[f"evaluate/{target}"] for target in COMPARED_TARGETS}

    @property
    def benchmark(self) -> str:
        return str(self.evaluations["tuned"]["benchmark"])


def read_report_inputs(reports: Path = Path("reports")) -> ReportInputs:
    """Read reports/.

    Raises:
        UserError: a file is missing or damaged, or two files contradict each other; names the file.
    """
    metrics = {stage: read_metrics(reports / f"{stage}.json") for stage in REPORTED_STAGES}
    samples = {
        target: read_jsonl(reports / "evaluate" / target / "samples.jsonl") for target in COMPARED_TARGETS
    }
    evaluations = {target: metrics[f"evaluate/{target}"] for target in COMPARED_TARGETS}
    check_scored_alike(*(evaluation["benchmarks"] for evaluation in evaluations.values()))
    for target in COMPARED_TARGETS:
        check_samples_match_metrics(evaluations[target], samples[target], target)
    return ReportInputs(
        metrics=metrics,
        curve=read_curve(reports / "train.csv"),
        samples=samples,
        quantized=read_quantized_samples(reports, evaluations["tuned"]),
        near=read_near_problems(
            reports.parent / NEAR_FILE, metrics["clean"], list(evaluations["tuned"]["benchmarks"])
        ),
        config_text=(reports / "config.yaml").read_text("utf-8"),
    )


def read_quantized_samples(reports: Path, tuned: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Read the samples of the quantized base; None if it was not scored."""
    if "quantized_base" not in tuned:
        return None
    samples = read_jsonl(reports / QUANTIZED_SAMPLES.relative_to("reports"))
    check_samples_match_metrics(tuned["quantized_base"], samples, "tuned", QUANTIZED_SAMPLES.name)
    return samples


def read_near_problems(
    path: Path, clean: dict[str, Any], benchmarks: list[str]
) -> dict[ProblemKey, dict[str, Any]] | None:
    """Read the benchmarks' lines of near.jsonl by problem; None if clean did not compare its rows with all of them."""
    if not set(benchmarks) <= clean.get("problems_near", {}).keys():
        return None
    return {problem_key(line): line for line in read_jsonl(path) if line["benchmark"] in benchmarks}


def check_scored_alike(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> None:
    """Refuse to compare models that were scored on other benchmarks, or otherwise on one of them.

    Raises:
        UserError: names the benchmark and what differs.
    """
    found = [("", " and ".join(base), " and ".join(tuned))]
    if base.keys() == tuned.keys():
        forms = {"samples": "{} samples per problem", "temperature": "temperature {}"}
        found = [
            (f", {name}", form.format(base[name].get(key)), form.format(tuned[name].get(key)))
            for name in base
            for key, form in forms.items()
        ]
    for where, before, after in found:
        if before != after:
            raise UserError(
                f"reports/evaluate{where}: base was scored on {before}, tuned on {after}. Run `dvc repro` to "
                f"score both again."
            )


def judged_in_weak_sandbox(evaluation: Mapping[str, Any]) -> bool:
    """Whether a target was judged at isolation level C, which restricts a completion little."""
    return bool(evaluation["isolation"]["level"] == "C")


def check_samples_match_metrics(
    evaluation: dict[str, Any], samples: Sequence[dict[str, Any]], target: str, file: str = "samples.jsonl"
) -> None:
    """Refuse to show a pass rate that the samples do not support.

    Raises:
        UserError: there are no problems, or the files disagree on how many there are or how many samples
        passed.
    """
    expected = (evaluation["problems"], evaluation["passed"])
    counted = (
        len({problem_key(sample) for sample in samples}),
        sum(sample["verdict"] == PASSED for sample in samples),
    )
    if expected != counted or not samples:
        raise UserError(
            f"reports/evaluate/{target}.json reports {expected[1]} samples passed and {expected[0]} "
            f"problems, but {file} of {target} has {counted[1]} and {counted[0]}. Run `dvc repro -f "
            f"-s evaluate@{target}` to make both again."
        )
