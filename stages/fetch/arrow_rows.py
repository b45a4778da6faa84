"""Rows out of Parquet and Arrow, in batches that fit in memory."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stages.fetch.row_errors import CUT, DUPLICATE, MAX_ROW_BYTES, NOT_UTF8, OVERSIZE, ReadRow, RejectedRow

if TYPE_CHECKING:
    import pyarrow as pa

READ_BATCH_ROWS = 1024
READ_BATCH_BYTES = 8 * 2**20  # of a batch, as the file's footer gives the size of its rows
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def columnar_rows(path: Path, kind: str) -> Iterator[ReadRow]:
    """Yield rows of Parquet or Arrow, numbered from 1."""
    number = 0
    for batch in parquet_batches(path) if kind == "Parquet" else arrow_batches(path):
        names = batch.schema.names
        if twice := next((name for name in names if names.count(name) > 1), ""):
            yield RejectedRow(0, DUPLICATE, f"'{twice}'")
            return
        yield from batch_rows(batch, number)
        number += batch.num_rows
    with path.open("rb") as file:
        is_stream = file.read(4) == END_OF_STREAM[:4]
        file.seek(-len(END_OF_STREAM), 2)
        if is_stream and file.read() != END_OF_STREAM:  # a cut between two batches raises nothing
            yield RejectedRow(number + 1, CUT, "it has no end mark")


def parquet_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    import pyarrow.parquet as pq

    # Without pre_buffer=False a row group's column is held whole
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
            rows = max(1, min(READ_BATCH_ROWS, READ_BATCH_BYTES * group.num_rows // max(1, size)))
            yield from file.iter_batches(rows, [index])


def arrow_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    """Yield batches of an Arrow file or stream; what the file holds as one batch is read whole."""
    import pyarrow as pa

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    with pa.OSFile(str(path)) as source:
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(source)
        for batch in batches:
            yield from (batch.slice(at, READ_BATCH_ROWS) for at in range(0, batch.num_rows, READ_BATCH_ROWS))


def batch_rows(batch: "pa.RecordBatch", before: int) -> Iterator[ReadRow]:
    """Yield the rows of a batch, numbered from `before` + 1; one by one where a row is too large or not UTF-8."""
    if batch.nbytes <= MAX_ROW_BYTES:
        with suppress(UnicodeDecodeError):
            yield from enumerate(batch.to_pylist(), before + 1)
            return
    for number, one in enumerate((batch.slice(at, 1) for at in range(batch.num_rows)), before + 1):
        if one.nbytes > MAX_ROW_BYTES:
            yield RejectedRow(number, OVERSIZE)
            continue
        try:
            yield number, one.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield RejectedRow(number, NOT_UTF8, error.reason)
