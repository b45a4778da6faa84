"""Cut rows into row groups that a reader can hold; they depend on the rows alone, and so do the file's bytes."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from stages.common.core.files import ROW_GROUP_ROWS
from stages.common.rows.schema import row_schema

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 64 * 2**20  # of text, where ROW_GROUP_ROWS rows have more


def row_groups(tables: Iterable["pa.Table"], schema: "pa.Schema | None" = None) -> Iterator["pa.Table"]:
    """Yield one table per row group, however the rows are cut into tables.

    Args:
        schema: of the tables; None: `row_schema()`.
    """
    import pyarrow as pa

    waiting = (schema or row_schema()).empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table]).combine_chunks()
        while rows := group_rows(waiting):
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def group_rows(table: "pa.Table") -> int:
    """Return how many of the first rows make a whole row group; 0 if that takes more rows to know."""
    first = table.slice(0, ROW_GROUP_ROWS)
    whole = ROW_GROUP_ROWS if table.num_rows >= ROW_GROUP_ROWS else 0
    if first.nbytes <= ROW_GROUP_BYTES:  # an upper bound of the texts
        return whole
    over = np.flatnonzero(np.cumsum(text_bytes(first)) > ROW_GROUP_BYTES)
    return max(1, int(over[0])) if len(over) else whole


def text_bytes(table: "pa.Table") -> np.ndarray:
    """Return the bytes of each row's texts (int64)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = np.zeros(table.num_rows, np.int64)
    for name in table.schema.names:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        elif pa.types.is_list(column.type):
            contents = sum(
                pc.fill_null(pc.binary_length(column.values.field(part)), 0).to_numpy(zero_copy_only=False)
                for part in ("content", "extra")
            )
            ends = np.concatenate([[0], np.cumsum(contents, dtype=np.int64)])
            total += np.diff(ends[column.offsets.to_numpy()])
    return total
