"""reports/train.csv: the curve of a training, a row every few steps; what was measured is in train-times.json."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from stages.common.core.errors import UserError

CURVE_FILE = Path("reports/train.csv")

CurveCells = dict[
    str, float | None
]  # a row as it is read: a number for each column, None where the cell is empty


@dataclass
class CurveRow:
    """One row of a curve: what was counted and measured since the row before it."""

    # optimizer steps done
    step: int
    # trained on so far, prompts included
    tokens: int
    # passes over the packs so far
    epoch: float
    # mean over the labelled tokens since the last row, in nats; None before the first step
    loss: float | None
    # at this step
    learning_rate: float
    # at this step, before clipping
    grad_norm: float | None
    # since the last row, time spent on validation excluded
    tokens_per_second: float | None
    # useful operations over those that matrix products would have done in the same time
    share_of_peak: float | None = None
    # memory held when the row was written: of the CUDA device, otherwise resident
    memory_mib: float | None = None
    # None where it was not measured
    validation_loss: float | None = None


# In which two runs of one training differ: under `curve` in reports/train-times.json, by step
MEASURED = ("tokens_per_second", "share_of_peak", "memory_mib")
CURVE_COLUMNS = [field.name for field in fields(CurveRow) if field.name not in MEASURED]


def read_curve(path: Path) -> list[CurveCells]:
    """Read the rows of reports/train.csv as numbers; an empty cell is None.

    Raises:
        UserError: the file is missing, or a cell is not a number; names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[CurveCells] = []
            for row in reader:
                try:
                    rows.append({key: float(cell) if cell else None for key, cell in row.items()})
                    float(row["step"])
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{path}, line {reader.line_num}: not a row of the curve ({error}). "
                        "Run `dvc repro -f -s train` to make the file again."
                    ) from None
            return rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run `dvc repro train` to make it.") from None


def column(curve: Sequence[CurveCells], name: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a column where it was measured."""
    points = [(row["step"], row[name]) for row in curve if row.get(name) is not None]
    return [x for x, _ in points if x is not None], [y for _, y in points if y is not None]
