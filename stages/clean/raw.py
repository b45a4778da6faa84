"""Open data/raw/rows.parquet and reject a file that fetch would not have written."""

import pyarrow as pa
import pyarrow.parquet as pq

from stages.common.errors import UserError
from stages.common.files import open_parquet
from stages.common.schema import row_schema

FETCH_REMEDY = "Run `dvc repro fetch`."


def open_raw(path: str) -> pq.ParquetFile:
    """Open the file of rows; only its footer is read.

    Raises:
        UserError: the file is missing, not Parquet or empty, or a column is missing or has the wrong type.
    """
    file = open_parquet(path)
    schema = file.schema_arrow
    for wanted in row_schema():
        places = schema.get_all_field_indices(wanted.name)
        if len(places) != 1:
            problem = "appears twice" if places else "is missing"
            raise UserError(f"{path}: the column '{wanted.name}' {problem}. {FETCH_REMEDY}")
        kind = schema.field(places[0]).type
        if kind != wanted.type:
            raise UserError(
                f"{path}: the column '{wanted.name}' is {kind}, expected {wanted.type}. {FETCH_REMEDY}"
            )
    if not file.metadata.num_rows:
        raise UserError(f"{path} holds no rows. {FETCH_REMEDY}")
    return file


def require_values(batch: pa.RecordBatch, path: str, first: int) -> None:
    """Reject nulls in columns that `row_schema()` makes non-nullable.

    Args:
        first: number of the batch's first row in the file.

    Raises:
        UserError: names the row and the column.
    """
    for wanted in row_schema():
        column = batch.column(wanted.name)
        if column.null_count and not wanted.nullable:
            row = first + column.is_null().to_pylist().index(True)
            raise UserError(f"{path}, row {row}: '{wanted.name}' is null. {FETCH_REMEDY}")
