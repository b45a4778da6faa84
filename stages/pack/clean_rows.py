"""Read the rows of data/clean."""

import pyarrow as pa
import pyarrow.parquet as pq

from stages.common.core.errors import UserError
from stages.common.core.files import open_parquet, unreadable_parquet
from stages.common.core.paths import CLEAN_ROWS
from stages.common.rows.schema import row_schema

VALIDATED = "validated"  # bool; clean writes the column where it ran the tests of rows


def clean_columns() -> list[str]:
    return [*row_schema().names, "component"]


def open_rows() -> pq.ParquetFile:
    """Open data/clean/rows.parquet without reading its rows.

    Raises:
        UserError: the file is missing, is not Parquet, or lacks columns.
    """
    file = open_parquet(CLEAN_ROWS)
    missing = [name for name in clean_columns() if name not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"{CLEAN_ROWS}: no column {', '.join(missing)}. Run `dvc repro clean` to write it again."
        )
    return file


def read_rows(group: int) -> pa.Table:
    """Return the rows of one row group: the columns of `row_schema`, `component`, and `validated` if there."""
    try:
        with open_rows() as file:
            return file.read_row_group(group, columns=[*clean_columns(), VALIDATED])
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_parquet(f"{CLEAN_ROWS}, row group {group}", error) from None
