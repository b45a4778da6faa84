"""Rows sorted by id in bounded memory: sorted runs in a scratch folder, read back a range of ids at a time."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

RUN_BYTES = 64 * 2**20  # rows held in memory before they are written, and about as many of a range read back
PREFIXES = 4096  # ids are split by their first three hex digits: 256 GiB of rows in ranges of RUN_BYTES
ID_DIGITS = 20  # of an id
HEX_DIGITS = "0123456789abcdef"
HEX_VALUES = np.zeros(256, np.uint16)
HEX_VALUES[np.frombuffer(HEX_DIGITS.encode(), np.uint8)] = np.arange(16)
Spans = list[tuple[int, int]]  # of each run: first row, and one past the last


class SortedRuns:
    """Takes batches of rows in any order, and returns all rows sorted by id.

    Equal ids become id, id-2, id-3, ... as in `id_suffixes`, for rows in the order in which they were added.
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
        """Yield all rows by id, in tables of about RUN_BYTES; may be called again."""
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
            yield from self.between(low, high, columns)

    def between(self, low: int, high: int, columns: list[str] | None) -> Iterator["pa.Table"]:
        """Rows with prefixes from `low` to below `high`, parted again where they are too many."""
        spans = [(int(bounds[low]), int(bounds[high])) for bounds in self.bounds]
        if self.fits(spans, columns):
            yield from self.together(spans, columns)
        elif high - low > 1:
            middle = (low + high) // 2
            yield from self.between(low, middle, columns)
            yield from self.between(middle, high, columns)
        else:
            yield from self.below(f"{low:03x}", spans, columns)

    def below(self, start: str, spans: Spans, columns: list[str] | None) -> Iterator["pa.Table"]:
        """Rows whose ids begin with `start`; those of equal ids in pieces where they are too many."""
        if self.fits(spans, columns):
            yield from self.together(spans, columns)
        elif len(start) == ID_DIGITS:
            yield from self.alike(spans, columns)
        else:
            parts = [self.parted(run, span, start) for run, span in enumerate(spans)]
            for digit, inner in zip(HEX_DIGITS, zip(*parts, strict=True), strict=True):
                yield from self.below(start + digit, list(inner), columns)

    def fits(self, spans: Spans, columns: list[str] | None) -> bool:
        """Whether rows of all runs can be held at once: twice RUN_BYTES, as ids are never spread quite evenly."""
        sizes = (
            self.mapped(run, columns, span).nbytes for run, span in enumerate(spans) if span[1] > span[0]
        )
        return sum(sizes) <= 2 * self.run_bytes

    def parted(self, run: int, span: tuple[int, int], start: str) -> Spans:
        """The parts of a run's rows whose ids go on with each digit behind `start`."""
        ids = self.mapped(run, ["id"])["id"]
        firsts = [
            bisect_left(range(span[1]), start + d, span[0], key=lambda i: ids[i].as_py()) for d in HEX_DIGITS
        ]
        return list(pairwise([*firsts, span[1]]))

    def together(self, spans: Spans, columns: list[str] | None) -> Iterator["pa.Table"]:
        """Rows of all runs by id, in one table; none where there is no row."""
        import pyarrow as pa

        parts = [
            copied(self.mapped(run, columns, span)) for run, span in enumerate(spans) if span[1] > span[0]
        ]
        if parts:
            yield numbered(by_id(pa.concat_tables(parts)))

    def alike(self, spans: Spans, columns: list[str] | None) -> Iterator["pa.Table"]:
        """Rows of equal ids, a run's after another's."""
        behind = id_suffixes(sum(end - start for start, end in spans))
        for run, (start, end) in enumerate(spans):
            size = self.mapped(run, columns, (start, end)).nbytes
            rows = max(1, (end - start) * self.run_bytes // max(1, size))
            for at in range(start, end, rows):
                table = copied(self.mapped(run, columns, (at, min(at + rows, end))))
                yield with_ids(table, [row_id + next(behind) for row_id in table["id"].to_pylist()])

    def mapped(self, run: int, columns: list[str] | None, span: tuple[int, int] | None = None) -> "pa.Table":
        """Rows of a run where they lie, mapped into memory as long as the table is held."""
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(self.paths[run]))).read_all()
        table = table.select(columns) if columns else table
        return table.slice(span[0], span[1] - span[0]) if span else table


def copied(table: "pa.Table") -> "pa.Table":
    """The rows in memory of their own: what they were mapped from can go."""
    return table.take(np.arange(table.num_rows))


def by_id(table: "pa.Table") -> "pa.Table":
    """A copy sorted by id, in one piece; the sort is stable."""
    import pyarrow.compute as pc

    return table.take(pc.sort_indices(table, [("id", "ascending")])).combine_chunks()


def prefixes(ids: "pa.Array") -> np.ndarray:
    """The first three hex digits of each id as a number."""
    offset = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset]
    data = np.frombuffer(ids.buffers()[2], np.uint8)[offset : offset + ID_DIGITS * len(ids)].reshape(
        -1, ID_DIGITS
    )
    digits = HEX_VALUES[data[:, :3]].astype(np.int64)
    return digits[:, 0] * 256 + digits[:, 1] * 16 + digits[:, 2]


def numbered(table: "pa.Table") -> "pa.Table":
    """Equal ids, which stand together, made unique; the table stays sorted."""
    ids = table["id"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    if len(starts) == len(ids):
        return table
    unique = ids.tolist()
    for start, end in pairwise([*starts.tolist(), len(unique)]):
        if end - start > 1:
            unique[start:end] = [ids[start] + behind for behind in id_suffixes(end - start)]
    return with_ids(table, unique)


def id_suffixes(count: int) -> Iterator[str]:
    """What makes `count` equal ids unique: nothing, and -2 to -`count`, sorted as text (-10 before -2)."""
    number = 1
    yield ""
    for _ in range(count - 1):
        if number * 10 <= count:
            number *= 10
        else:
            while number % 10 == 9 or number == count:
                number //= 10
            number += 1
        yield f"-{number}"


def with_ids(table: "pa.Table", ids: list[str]) -> "pa.Table":
    import pyarrow as pa

    place = table.schema.get_field_index("id")
    return table.set_column(place, table.schema.field(place), pa.array(ids, table.schema.field(place).type))
