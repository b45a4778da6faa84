"""Everything that the report shows, read from the files of the other stages."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.files import read_json, read_jsonl

STAGES = ("base", "fetch", "clean", "pack", "train", "merge", "evaluate/base", "evaluate/tuned")
TARGETS = ("base", "tuned")
PASSED = "passed"  # the verdict of a sample whose program passed its tests
Row = dict[str, float | None]


@dataclass(frozen=True)
class Evidence:
    """The metrics of each stage by its name, the curve, the samples of both models, the configuration."""

    metrics: dict[str, dict[str, Any]]
    curve: list[Row]
    samples: dict[str, list[dict[str, Any]]]
    config_text: str

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config_text)


def read_evidence(reports: Path = Path("reports")) -> Evidence:
    """Read reports/.

    Raises:
        UserError: a file is missing or damaged, or files contradict each other; names the file.
    """
    evidence = Evidence(
        metrics={stage: read_json(reports / f"{stage}.json") for stage in STAGES},
        curve=read_curve(reports / "train.csv"),
        samples={target: read_jsonl(reports / "evaluate" / target / "samples.jsonl") for target in TARGETS},
        config_text=(reports / "config.yaml").read_text("utf-8"),
    )
    scored = {target: evidence.metrics[f"evaluate/{target}"]["benchmark"] for target in TARGETS}
    if len(set(scored.values())) > 1:
        raise UserError(
            f"base is scored on {scored['base']}, tuned on {scored['tuned']}: `dvc repro` scores both anew."
        )
    for target in TARGETS:
        check_samples(evidence.metrics[f"evaluate/{target}"], evidence.samples[target], target)
    return evidence


def read_curve(path: Path) -> list[Row]:
    """Rows of reports/train.csv as numbers; an empty cell is None.

    Raises:
        UserError: the file is missing, or a cell is no number; names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[Row] = []
            for row in reader:
                try:
                    rows.append({key: float(cell) if cell else None for key, cell in row.items()})
                except (TypeError, ValueError) as error:
                    raise UserError(
                        f"{path}, line {reader.line_num}: not a row of the curve ({error}). "
                        "`dvc repro -f -s train` makes it anew."
                    ) from None
            return rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `dvc repro train` makes it.") from None


def check_samples(metrics: dict[str, Any], samples: Sequence[dict[str, Any]], target: str) -> None:
    """Refuse to show a rate that the samples do not bear out.

    Raises:
        UserError: the number of problems or passed samples differs between the two files.
    """
    told = (metrics["problems"], metrics["passed"])
    counted = (
        len({sample["task_id"] for sample in samples}),
        sum(sample["verdict"] == PASSED for sample in samples),
    )
    if told != counted:
        raise UserError(
            f"reports/evaluate/{target}.json tells of {told[1]} passed of {told[0]} problems, its samples.jsonl holds "
            f"{counted[1]} of {counted[0]}. `dvc repro -f -s evaluate@{target}` makes both anew."
        )
