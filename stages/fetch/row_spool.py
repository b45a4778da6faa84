"""Rows on disk in the order of their source, with unique ids, until it is known how many of them are taken."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ID_DIGITS = 20  # of an id, in hex
KEY_DIGITS = 16  # of them that tell ids apart: two of 10^7 share these by chance once in 400,000 runs


class RowSpool:
    """Takes batches of rows, then yields them as often as asked; holds 8 bytes a row, and 28 while it numbers them.

    Equal ids become id, id-2, id-3, ... in the order in which they were added.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.arrow"
        self.keys: list[np.ndarray] = []
        self.places: np.ndarray | None = None
        self.writer: Any = None

    def add(self, batch: "pa.RecordBatch") -> None:
        import pyarrow as pa

        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = pa.ipc.new_file(str(self.path), batch.schema)
        self.writer.write_batch(batch)
        ids = batch.column("id").to_pylist()
        self.keys.append(np.fromiter((int(one[:KEY_DIGITS], 16) for one in ids), np.uint64, len(ids)))

    def rows(self, columns: list[str] | None = None) -> Iterator["pa.Table"]:
        """Yield all rows, or some of their columns (`id` among them), in small tables."""
        import pyarrow as pa

        if self.writer is None:
            return
        if self.places is None:
            self.writer.close()
            self.places = places_among_equal(np.concatenate(self.keys))
            self.keys.clear()
        first = 0
        with pa.OSFile(str(self.path)) as source:  # mapped pages would count as memory of ours
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                places = self.places[first : first + batch.num_rows]
                first += batch.num_rows
                table = pa.Table.from_batches([batch]).select(columns or batch.schema.names)
                yield numbered(table, places)


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
