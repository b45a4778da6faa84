"""The map of the stage: row groups of data/raw to part files, and the few numbers a row that the driver keeps.

A part holds the rows as they will be written, the rule that dropped each and its evidence, what a row comes near, and
its shingles and band keys.
"""

import gc
import pickle
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.clean.contamination.benchmark_proximity import Near, near_problems
from stages.clean.contamination.decontaminate import index_of, mark
from stages.clean.duplicates.deduplicate import text_digest
from stages.clean.duplicates.near_duplicates import write_signatures
from stages.clean.raw import require_sorted, require_values
from stages.clean.row import Row, make_row
from stages.clean.screen import Drop, first_failure
from stages.clean.settings import CleanSettings
from stages.clean.transform import transformed
from stages.clean.validate import Check, check_of
from stages.common.schema import row_schema

BATCH_ROWS = 1024
NONE = bytes(16)  # the digest of a row without code


@dataclass(frozen=True)
class Task:
    """A row group, and where its part goes."""

    path: str
    number: int  # of the row group, and of the part
    first: int  # number of its first row in the file
    benchmarks: str
    scratch: str
    settings: CleanSettings


@dataclass
class Part:
    """What the driver keeps of the rows of a part, in their order."""

    ids: pa.LargeStringArray
    sources: pa.DictionaryArray
    rules: np.ndarray  # int16, place in `settings.rules` of the rule that dropped the row; -1: it passed
    tests: np.ndarray  # bool: the row has tests
    sizes: np.ndarray  # int32 [n, 2]: characters of the completion, of the whole text
    digests: np.ndarray  # uint64 [n, 2], of the normalized text
    fingerprints: np.ndarray  # uint64 [n, 2], of the code; 0 without code
    shingles: np.ndarray  # int32, 0 for a dropped row
    changed: Counter[str] = field(default_factory=Counter)  # rows changed before the rules, by kind
    benchmarks: Counter[str] = field(
        default_factory=Counter
    )  # rows dropped for each; one may hold problems of several


def tasks_of(
    file: pq.ParquetFile, path: str, benchmarks: str, scratch: Path, settings: CleanSettings
) -> Iterator[Task]:
    first = 0
    for number in range(file.metadata.num_row_groups):
        yield Task(path, number, first, benchmarks, str(scratch), settings)
        first += file.metadata.row_group(number).num_rows


def make_part(task: Task) -> Part:
    """Transform, screen and sign the rows of a row group; write its part files.

    Raises:
        UserError: a null where none may be, or ids that do not ascend.
    """
    with no_collections():
        return part_of(task)


@contextmanager
def no_collections() -> Iterator[None]:
    """Syntax trees have no cycles and are freed as rows go: the collector would walk them for a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def part_of(task: Task) -> Part:
    scratch, settings = Path(task.scratch), task.settings
    changed: Counter[str] = Counter()
    batches: list[pa.RecordBatch] = []
    file = pq.ParquetFile(task.path)
    names = row_schema().names
    found = Screened()
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[task.number], columns=names):
        batch = batch.select(names)
        require_values(batch, task.path, task.first + len(found.drops))
        batch, counts = transformed(batch, settings)
        changed.update(counts)
        batches.append(batch)
        rows = deque(make_row(record, settings.layout) for record in batch.to_pylist())
        found.add(rows, task.benchmarks, settings)
    table = pa.Table.from_arrays(pa.Table.from_batches(batches).columns, schema=row_schema())
    require_sorted(table.column("id"), task.path, task.first)
    write_part(scratch, task.number, table, found)
    return Part(
        ids=table.column("id").combine_chunks().cast(pa.large_string()),
        sources=table.column("source").combine_chunks().dictionary_encode(),
        rules=np.array([settings.rules.index(d.rule) if d else -1 for d in found.drops], np.int16),
        tests=np.array(found.tests, bool),
        sizes=np.array(found.sizes, np.int32).reshape(-1, 2),
        digests=pairs_of(found.digests),
        fingerprints=pairs_of(found.fingerprints),
        shingles=write_signatures(scratch, task.number, found.texts, settings.near_duplicates),
        changed=changed,
        benchmarks=Counter(name for drop in found.drops if drop for name in drop.benchmarks),
    )


@dataclass
class Screened:
    """What is worked out for each row of a part."""

    drops: list[Drop | None] = field(default_factory=list)
    tests: list[bool] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # what shingles are made of; empty for a dropped row
    near: list[list[Near]] = field(default_factory=list)
    checks: list[tuple[int, Check]] = field(default_factory=list)  # by row of the part

    def add(self, rows: deque[Row], benchmarks: str, settings: CleanSettings) -> None:
        """Screen rows and take them out of `rows`: the syntax tree of each goes with it."""
        index = index_of(benchmarks, settings.contamination)
        mark([*rows], index)
        while rows:
            row = rows.popleft()
            drop = first_failure(row, settings, index)
            passed = drop is None
            if passed and settings.validate != "none":
                check = check_of(row)
                if check:
                    self.checks.append((len(self.drops), check))
            self.drops.append(drop)
            self.tests.append(row.has_tests)
            self.sizes.append((len(row.answer), len(row.text)))
            self.digests.append(text_digest(row.text) if passed else NONE)
            self.fingerprints.append(bytes.fromhex(row.code.fingerprint) or NONE if passed else NONE)
            self.texts.append(row.text if passed else "")
            self.near.append(near_problems(row, index, settings.rules) if passed else [])


def pairs_of(digests: list[bytes]) -> np.ndarray:
    """Digests of 16 bytes as uint64 [n, 2]."""
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def write_part(scratch: Path, number: int, table: pa.Table, found: Screened) -> None:
    evidence = pa.array([drop and drop.evidence for drop in found.drops], pa.string())
    near = pa.array([pickle.dumps(near) if near else None for near in found.near], pa.binary())
    table = table.append_column("evidence", evidence).append_column("near", near)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(scratch / f"rows-{number:06}.arrow", table.schema, options=options) as file:
        file.write_table(table)
    if found.checks:
        (scratch / f"checks-{number:06}.pickle").write_bytes(pickle.dumps(found.checks))


def read_part(scratch: Path, number: int) -> pa.Table:
    """Rows of a part in `row_schema()`, with `evidence` (null for a row that passed) and `near`."""
    with (scratch / f"rows-{number:06}.arrow").open("rb") as file:
        return pa.ipc.open_file(file).read_all()


def read_checks(scratch: Path, number: int) -> list[tuple[int, Check]]:
    """What there is to run of the rows of a part that passed, by their places in it."""
    path = scratch / f"checks-{number:06}.pickle"
    found: Any = pickle.loads(path.read_bytes()) if path.exists() else []
    return found


def nears_of(value: bytes) -> list[Near]:
    found: list[Near] = pickle.loads(value)
    return found
