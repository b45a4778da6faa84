"""Rows sorted by id in bounded memory: sorted runs in a scratch folder, read back a range of ids at a time."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

RUN_BYTES = 64 * 2**20  # rows held in memory before they are written, and about as many of a range read back
PREFIXES = 4096  # ids are parted by their first three hex digits: 256 GiB of rows in ranges of RUN_BYTES
HEX = np.zeros(256, np.uint16)
HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class Runs:
    """Takes batches of rows in any order of ids, gives them back sorted.

    Equal ids keep the order in which they came; the second gets -2 behind it, the third -3.
    """

    def __init__(self, folder: Path, run_bytes: int = RUN_BYTES) -> None:
        self.folder, self.run_bytes = folder, run_bytes
        self.waiting: list[pa.RecordBatch] = []
        self.size = self.written = 0  # bytes: waiting, and in runs
        self.paths: list[Path] = []
        self.bounds: list[np.ndarray] = []  # of each run: rows before each prefix

    def add(self, batch: "pa.RecordBatch") -> None:
        self.waiting.append(batch)
        self.size += batch.nbytes
        if self.size > self.run_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a sorted run."""
        import pyarrow as pa

        if not self.waiting:
            return
        table = by_id(pa.Table.from_batches(self.waiting))
        self.written += self.size
        self.waiting, self.size = [], 0
        path = self.folder / f"run-{len(self.paths):05}.arrow"
        self.folder.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4096)
        counts = np.bincount(prefixes(table["id"].combine_chunks()), minlength=PREFIXES)
        self.paths.append(path)
        self.bounds.append(np.concatenate([[0], np.cumsum(counts)]))

    def sorted(self, columns: list[str] | None = None) -> Iterator["pa.Table"]:
        """All rows by id, in tables of about RUN_BYTES; can be asked for again."""
        import pyarrow as pa

        if not self.paths:
            if self.waiting:
                table = pa.Table.from_batches(self.waiting)
                yield numbered(by_id(table.select(columns) if columns else table))
            return
        self.flush()
        parts = min(PREFIXES, -(-self.written // self.run_bytes))
        edges = [PREFIXES * part // parts for part in range(parts + 1)]
        for low, high in pairwise(edges):
            table = self.between(low, high, columns)
            if table.num_rows:
                yield numbered(by_id(table))

    def between(self, low: int, high: int, columns: list[str] | None) -> "pa.Table":
        """Rows of the runs with prefixes from `low` to below `high`; a run is mapped only until they are copied."""
        import pyarrow as pa

        parts = []
        for path, bounds in zip(self.paths, self.bounds, strict=True):
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
                table = table.select(columns) if columns else table
                parts.append(table.take(np.arange(bounds[low], bounds[high])))  # a copy: the run is unmapped
                del table
        return pa.concat_tables(parts)


def by_id(table: "pa.Table") -> "pa.Table":
    """A copy sorted by id, in one piece; the sort is stable."""
    import pyarrow.compute as pc

    return table.take(pc.sort_indices(table, [("id", "ascending")])).combine_chunks()


def prefixes(ids: "pa.Array") -> np.ndarray:
    """The first three hex digits of each id as a number; ids have all the same length."""
    width = len(ids[0].as_py())
    offset = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset]
    data = np.frombuffer(ids.buffers()[2], np.uint8)[offset : offset + width * len(ids)].reshape(-1, width)
    digits = HEX[data[:, :3]].astype(np.int64)
    return digits[:, 0] * 256 + digits[:, 1] * 16 + digits[:, 2]


def numbered(table: "pa.Table") -> "pa.Table":
    """Equal ids, which stand together, made unique."""
    import pyarrow as pa

    ids = table["id"].to_numpy()
    same = np.concatenate([[False], ids[1:] == ids[:-1]])
    if not same.any():
        return table
    count, unique = 1, ids.tolist()
    for index in np.flatnonzero(same):
        count = count + 1 if same[index - 1] else 2
        unique[index] = f"{ids[index]}-{count}"
    field = table.schema.field("id")
    return by_id(table.set_column(table.schema.get_field_index("id"), field, pa.array(unique, field.type)))
