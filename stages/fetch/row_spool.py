"""Rows on disk in the order of their sources, with unique ids, until it is known how many of them are taken."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ID_DIGITS = 20  # of an id, in hex
KEY_DIGITS = 16  # of them that tell ids apart: two of 10^7 share these by chance once in 400,000 runs


class RowSpool:
    """Takes batches of rows, source by source, then yields them; holds 8 bytes a row, and 28 while it selects.

    Equal ids become id, id-2, id-3, ... in the order in which they were added.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.arrow"
        self.rows_of: Counter[str] = Counter()  # of each source
        self.keys: list[np.ndarray] = []
        self.writer: Any = None

    def add(self, source: str, batch: "pa.RecordBatch") -> None:
        import pyarrow as pa

        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = pa.ipc.new_file(str(self.path), batch.schema)
        self.writer.write_batch(batch)
        ids = batch.column("id").to_pylist()
        self.keys.append(np.fromiter((int(one[:KEY_DIGITS], 16) for one in ids), np.uint64, len(ids)))
        self.rows_of[source] += len(ids)

    def take(self, counts: Mapping[str, int]) -> Iterator["pa.Table"]:
        """Yield this many rows of each source, in small tables: those with the lowest ids, which are hashes."""
        import pyarrow as pa

        if self.writer is None:
            return
        self.writer.close()
        keys = np.concatenate(self.keys)
        places, is_taken, first = places_among_equal(keys), np.ones(len(keys), bool), 0
        for source, size in self.rows_of.items():
            if counts[source] < size:
                own = slice(first, first + size)
                is_taken[first + np.lexsort((places[own], keys[own]))[counts[source] :]] = False
            first += size
        del keys
        first = 0
        with pa.OSFile(str(self.path)) as file:  # mapped pages would count as memory of ours
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                table = pa.Table.from_batches([reader.get_batch(number)])
                own = slice(first, first + table.num_rows)
                first += table.num_rows
                yield numbered(table, places[own]).filter(pa.array(is_taken[own]))


def places_among_equal(keys: np.ndarray) -> np.ndarray:
    """Return int32 [n]: 1 for the first row with a key, 2 for the second, and so on."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]]))
    places = np.empty(len(keys), np.int32)
    places[order] = np.arange(len(keys)) - np.repeat(starts, np.diff([*starts, len(keys)])) + 1
    return places


def numbered(table: "pa.Table", places: np.ndarray) -> "pa.Table":
    """Return the rows with `-2`, `-3`, ... behind ids that came before."""
    import pyarrow as pa

    if (places == 1).all():
        return table
    ids = [one if n == 1 else f"{one}-{n}" for one, n in zip(table["id"].to_pylist(), places, strict=True)]
    column = table.schema.get_field_index("id")
    return table.set_column(column, table.schema.field(column), pa.array(ids, pa.string()))
