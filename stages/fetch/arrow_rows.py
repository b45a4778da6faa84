"""Rows out of Parquet and Arrow, column by column, in batches that fit in memory."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.fetch.row_errors import CUT, DUPLICATE, MAX_ROW_BYTES, NOT_UTF8, OVERSIZE, ReadRow, RejectedRow

if TYPE_CHECKING:
    import pyarrow as pa

READ_BATCH_ROWS = 1024
READ_BATCH_BYTES = 8 * 2**20  # of a batch, as the file's footer gives the size of its rows
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def columnar_rows(path: Path, kind: str, wanted: Collection[str] | None) -> Iterator[ReadRow]:
    """Yield rows of Parquet or Arrow with the wanted columns (None: all), numbered from 1."""
    number = 0
    for batch in parquet_batches(path, wanted) if kind == "Parquet" else arrow_batches(path, wanted):
        names = batch.schema.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is None:
            yield from batch_rows(batch, number)
        else:
            yield RejectedRow(number + 1, DUPLICATE, f"'{twice}'", rows=batch.num_rows)
        number += batch.num_rows
    with path.open("rb") as file:
        head = file.read(len(END_OF_STREAM))
        file.seek(-len(END_OF_STREAM), 2)
        if head[:4] == END_OF_STREAM[:4] and file.read() != END_OF_STREAM:
            yield RejectedRow(
                number + 1, CUT, "it has no end mark"
            )  # a cut between two batches raises nothing


def parquet_batches(path: Path, wanted: Collection[str] | None) -> Iterator["pa.RecordBatch"]:
    import pyarrow.parquet as pq

    # Without pre_buffer=False a row group's column is held whole
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        names = file.schema_arrow.names
        columns = [name for name in names if wanted is None or name in wanted] or names[:1]
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
            rows = max(1, min(READ_BATCH_ROWS, READ_BATCH_BYTES * group.num_rows // max(1, size)))
            yield from file.iter_batches(rows, [index], columns)


def arrow_batches(path: Path, wanted: Collection[str] | None) -> Iterator["pa.RecordBatch"]:
    """Yield batches of an Arrow file or stream; what the file holds as one batch is read whole."""
    import pyarrow as pa

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    with pa.OSFile(str(path)) as source:
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            reader = batches = pa.ipc.open_stream(source)
        names = reader.schema.names
        columns = [place for place, name in enumerate(names) if wanted is None or name in wanted]
        for batch in batches:
            chosen = batch.select(columns)
            yield from (chosen.slice(at, READ_BATCH_ROWS) for at in range(0, batch.num_rows, READ_BATCH_ROWS))


def batch_rows(batch: "pa.RecordBatch", before: int) -> Iterator[ReadRow]:
    """Yield the rows of a batch, numbered from `before` + 1."""
    import pyarrow as pa

    names = batch.schema.names
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            columns = [values(column) for column in batch.columns]
        except (
            UnicodeDecodeError,
            pa.ArrowException,
        ):  # text that is not UTF-8, as the two ways of `values` say it
            pass
        else:
            for number, row in enumerate(zip(*columns, strict=True), before + 1):
                yield number, dict(zip(names, row, strict=True))
            return
    for index in range(batch.num_rows):
        number, one = before + index + 1, batch.slice(index, 1)
        if one.nbytes > MAX_ROW_BYTES:
            yield RejectedRow(number, OVERSIZE)
            continue
        try:
            yield number, one.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield RejectedRow(number, NOT_UTF8, error.reason)


def values(column: "pa.Array") -> list[Any]:
    """Return Python values, None for NaN, as pandas writes what is missing; text through numpy, which is faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_numpy(zero_copy_only=False).tolist()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column.to_pylist()
