"""Rows out of Parquet and Arrow, column by column, in batches that fit in memory."""

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from stages.common.errors import one_line
from stages.fetch.row_errors import CUT, DUPLICATE, MAX_ROW_BYTES, NOT_UTF8, OVERSIZE, ReadRow, RejectedRow

if TYPE_CHECKING:
    import pyarrow as pa

READ_BATCH_ROWS = 1024
READ_BATCH_BYTES = 8 * 2**20  # of a batch, as the file's footer gives the size of its rows
TOUCHED_BYTES = 16 * 2**20  # of a mapped file, before its pages are given back
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def parquet_rows(stream: BinaryIO, wanted: Collection[str] | None) -> Iterator[ReadRow]:
    """Yield rows with the wanted columns (None: all); a damaged row group is skipped and its rows counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(
        stream, buffer_size=2**20, pre_buffer=False
    )  # else a row group's column is held whole
    columns, twice = select_columns(file.schema_arrow.names, wanted)
    number = 0
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        if twice is not None:
            yield RejectedRow(number + 1, DUPLICATE, f"'{twice}'", rows=group.num_rows)
            number += group.num_rows
            continue
        end = number + group.num_rows
        size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
        rows = max(1, min(READ_BATCH_ROWS, READ_BATCH_BYTES * group.num_rows // max(1, size)))
        try:
            if not columns:
                yield from ((number + i, {}) for i in range(1, group.num_rows + 1))
            for batch in file.iter_batches(rows, [index], columns) if columns else ():
                yield from batch_rows(batch, number)
                number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            yield RejectedRow(number + 1, CUT, one_line(error), rows=end - number)
        number = end


def arrow_rows(path: Path, wanted: Collection[str] | None) -> Iterator[ReadRow]:
    """Yield rows of an Arrow file or stream; a file is read as a stream, which gives the rows before a cut."""
    import pyarrow as pa

    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    is_file = mapped[:6] == b"ARROW1"
    source = pa.BufferReader(pa.py_buffer(mapped))
    source.seek(8 if is_file else 0)
    reader = pa.ipc.open_stream(source)
    columns, twice = select_columns(reader.schema.names, wanted)
    number, touched = 0, 0
    for batch in reader:
        if twice is not None:
            yield RejectedRow(number + 1, DUPLICATE, f"'{twice}'", rows=batch.num_rows)
        else:
            batch = batch.select(columns)
            for start in range(0, batch.num_rows, READ_BATCH_ROWS):
                part = batch.slice(start, READ_BATCH_ROWS)
                yield from batch_rows(part, number + start)
                touched += part.nbytes
                if touched > TOUCHED_BYTES:
                    mapped.madvise(mmap.MADV_DONTNEED)  # what was read counts no longer as ours
                    touched = 0
        number += batch.num_rows
    mark = b"ARROW1" if is_file else END_OF_STREAM
    if mapped[-len(mark) :] != mark:  # a cut between two batches shows nowhere else
        yield RejectedRow(number + 1, CUT, "it has no end mark")


def select_columns(names: list[str], wanted: Collection[str] | None) -> tuple[list[str], str | None]:
    """Return the columns to read, and a column name that is repeated, if any."""
    twice = next((name for name in names if names.count(name) > 1), None)
    return [name for name in names if wanted is None or name in wanted], twice


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
    """Return Python values; text through numpy, which is faster than one scalar at a time."""
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_numpy(zero_copy_only=False).tolist()
    return column.to_pylist()
