"""Rows of data/clean, as packing reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.common.errors import UserError
from stages.common.files import open_parquet, unreadable_parquet
from stages.common.schema import row_schema

if TYPE_CHECKING:
    pass

ROWS = Path("data/clean/rows.parquet")


NEEDED = ["id", "source", "prompt", "completion", "messages", "component"]


def open_rows() -> pq.ParquetFile:
    """data/clean/rows.parquet, not read yet.

    Raises:
        UserError: it is missing or no Parquet, or lacks columns.
    """
    file = open_parquet(ROWS)
    check_columns(file.schema_arrow.names)
    return file


def read_rows(group: int) -> list[dict[str, Any]]:
    """Rows of one row group as dictionaries; columns that rendering does not need are left out."""
    try:
        with open_rows() as file:
            return file.read_row_group(group, columns=NEEDED).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_parquet(f"{ROWS}, row group {group}", error) from None


def check_columns(names: Sequence[str]) -> None:
    """Refuse a table that is not what clean writes.

    Raises:
        UserError: names the columns that are missing.
    """
    missing = [name for name in [*row_schema().names, "component"] if name not in names]
    if missing:
        raise UserError(f"{ROWS}: no column {', '.join(missing)}. `dvc repro clean` writes it.")
