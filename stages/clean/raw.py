"""data/raw/rows.parquet: opened, and refused where it is not what fetch writes."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.common.errors import UserError
from stages.common.files import open_parquet
from stages.common.schema import row_schema

REMEDY = "Run `dvc repro fetch`."


def open_raw(path: str) -> pq.ParquetFile:
    """The file of rows; nothing but its footer is read.

    Raises:
        UserError: the file is missing or no Parquet, a column is missing or has another type, or there are no rows.
    """
    file = open_parquet(path)
    schema = file.schema_arrow
    for wanted in row_schema():
        places = schema.get_all_field_indices(wanted.name)
        if len(places) != 1:
            found = "stands twice" if places else "is missing"
            raise UserError(f"{path}: the column '{wanted.name}' {found}. {REMEDY}")
        kind = schema.field(places[0]).type
        if kind != wanted.type:
            raise UserError(f"{path}: the column '{wanted.name}' is {kind}, expected {wanted.type}. {REMEDY}")
    if not file.metadata.num_rows:
        raise UserError(f"{path} holds no rows. {REMEDY}")
    return file


def require_values(batch: pa.RecordBatch, path: str, first: int) -> None:
    """Refuse nulls where `row_schema()` has none; `first` is the number of the batch's first row.

    Raises:
        UserError: names row and column.
    """
    for wanted in row_schema():
        column = batch.column(wanted.name)
        if column.null_count and not wanted.nullable:
            row = first + column.is_null().to_pylist().index(True)
            raise UserError(f"{path}, row {row}: '{wanted.name}' is null. {REMEDY}")


def require_sorted(ids: pa.Array | pa.ChunkedArray, path: str, first: int) -> None:
    """Refuse ids that do not ascend: rows are written in the order in which they come, and each id once.

    Raises:
        UserError: names the row and its id.
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()  # pyarrow 25 dies of `indices_nonzero` over no chunks: one row
    before, after = ids[:-1], ids[1:]
    wrong = pc.indices_nonzero(pc.greater_equal(before, after))
    if not len(wrong):
        return
    place = wrong[0].as_py()
    if before[place] == after[place]:
        raise UserError(f"{path}, row {first + place + 1}: the id '{after[place]}' stands twice. {REMEDY}")
    raise UserError(
        f"{path}, row {first + place + 1}: the id '{after[place]}' comes after '{before[place]}', but rows are sorted "
        f"by id. {REMEDY}"
    )
