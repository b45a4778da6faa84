"""Everything that the report shows, read from the files of the other stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.comparison import PASSED
from stages.common.curve import CurveCells, read_curve
from stages.common.errors import UserError
from stages.common.files import read_json, read_jsonl

NEAR_FILE = Path("data/clean/near.jsonl")
REPORTED_STAGES = ("base", "fetch", "clean", "pack", "train", "merge", "evaluate/base", "evaluate/tuned")
TARGETS = ("base", "tuned")


@dataclass(frozen=True)
class ReportInputs:
    """The metrics of each stage by its name, the curve, the samples of both models, what is near, the configuration."""

    metrics: dict[str, dict[str, Any]]
    curve: list[CurveCells]
    samples: dict[str, list[dict[str, Any]]]
    near: dict[str, dict[str, Any]] | None  # problem -> line of near.jsonl; None: not compared by clean
    config_text: str

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config_text)


def read_report_inputs(reports: Path = Path("reports")) -> ReportInputs:
    """Read reports/.

    Raises:
        UserError: a file is missing or damaged, or files contradict each other; names the file.
    """
    metrics = {stage: read_json(reports / f"{stage}.json") for stage in REPORTED_STAGES}
    samples = {target: read_jsonl(reports / "evaluate" / target / "samples.jsonl") for target in TARGETS}
    scored = {target: metrics[f"evaluate/{target}"] for target in TARGETS}
    for key, form in (
        ("benchmark", "{}"),
        ("samples", "{} samples a problem"),
        ("temperature", "temperature {}"),
    ):
        base, tuned = (form.format(of_target.get(key)) for of_target in scored.values())
        if base != tuned:
            raise UserError(f"base is scored on {base}, tuned on {tuned}: `dvc repro` scores both anew.")
    for target in TARGETS:
        check_samples(scored[target], samples[target], target)
    return ReportInputs(
        metrics=metrics,
        curve=read_curve(reports / "train.csv"),
        samples=samples,
        near=read_near(reports.parent / NEAR_FILE, metrics["clean"], scored["tuned"]["benchmark"]),
        config_text=(reports / "config.yaml").read_text("utf-8"),
    )


def read_near(path: Path, clean: dict[str, Any], benchmark: str) -> dict[str, dict[str, Any]] | None:
    """Lines of near.jsonl by problem of a benchmark; None where clean did not compare its rows with that benchmark."""
    if benchmark not in clean.get("problems_near", {}):
        return None
    return {line["task_id"]: line for line in read_jsonl(path) if line["benchmark"] == benchmark}


def judged_in_weak_sandbox(metrics: Mapping[str, Any]) -> bool:
    """Whether a target was judged at level C, where a completion can do much."""
    return bool(metrics["isolation"]["level"] == "C")


def check_samples(metrics: dict[str, Any], samples: Sequence[dict[str, Any]], target: str) -> None:
    """Refuse to show a rate that the samples do not bear out.

    Raises:
        UserError: no problem, or the number of problems or passed samples differs between the two files.
    """
    told = (metrics["problems"], metrics["passed"])
    counted = (
        len({sample["task_id"] for sample in samples}),
        sum(sample["verdict"] == PASSED for sample in samples),
    )
    if told != counted or not samples:
        raise UserError(
            f"reports/evaluate/{target}.json tells of {told[1]} passed of {told[0]} problems, its samples.jsonl holds "
            f"{counted[1]} of {counted[0]}. `dvc repro -f -s evaluate@{target}` makes both anew."
        )
