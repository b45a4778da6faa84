"""reports/train.csv: the curve of a training, a row every few steps."""

import csv
from collections.abc import Sequence
from pathlib import Path

from stages.common.errors import UserError

Row = dict[str, float | None]


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


def column(curve: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it was measured."""
    points = [(row["step"], row[name]) for row in curve if row.get(name) is not None]
    return [x for x, _ in points if x is not None], [y for _, y in points if y is not None]
