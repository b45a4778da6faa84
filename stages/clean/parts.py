"""The stage's map step: turn row groups of data/raw into part files and a few numbers per row for the driver.

A part holds the rows as they will be written, the evidence for each drop, the benchmark problems that a row
comes near, and its shingles.
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

from stages.clean.contamination.benchmark_proximity import Proximity, find_proximities
from stages.clean.contamination.decontaminate import load_index
from stages.clean.duplicates.deduplicate import text_digest
from stages.clean.duplicates.sides import question_and_answer, question_digest
from stages.clean.duplicates.signatures import write_shingles
from stages.clean.row import RowView, make_row
from stages.clean.screen import RowDrop, first_failed_rule
from stages.clean.settings import CleanSettings
from stages.clean.transform import transform_batch
from stages.clean.validate import RowCheck, extract_check
from stages.common.core.errors import UserError
from stages.common.core.files import open_parquet
from stages.common.rows.schema import row_schema

SCREEN_BATCH_ROWS = 1024
NO_DIGEST = bytes(16)  # digest of a dropped row, and fingerprint of a row without code


@dataclass(frozen=True)
class CleanTask:
    """One row group to clean."""

    path: str
    number: int  # of the row group and of its part
    first: int  # number of its first row in the file
    benchmarks: str  # folder of benchmark problems
    folder: str  # where the part files go
    settings: CleanSettings


@dataclass
class CleanedPart:
    """What the driver keeps of a part's rows, in their order."""

    ids: pa.LargeStringArray
    sources: pa.DictionaryArray
    dropped_by: np.ndarray  # int16, index in `clean.rules` of the dropping rule, -1 if it passed
    has_tests: np.ndarray  # bool
    sizes: np.ndarray  # int32 [n, 2]: characters of the completion and of the whole text
    digests: np.ndarray  # uint64 [n, 2], of the normalized text
    fingerprints: np.ndarray  # uint64 [n, 2], of the code; 0 without code
    shingles: np.ndarray  # int32 [n, 2], shingles of the question and of the answer; 0 for a dropped row
    questions: np.ndarray  # uint64, digest of the question, 0 without one
    changed: Counter[str] = field(default_factory=Counter)  # rows changed before the rules, by kind
    # Rows dropped for each benchmark. A row may hold problems of several.
    benchmarks: Counter[str] = field(default_factory=Counter)


def open_raw(path: str) -> pq.ParquetFile:
    """Open the file of rows; only its footer is read.

    Raises:
        UserError: the file is missing, not Parquet or empty, or its columns are not those that fetch writes.
    """
    file = open_parquet(path)
    found = list(file.schema_arrow)
    wrong = [column.name for column in row_schema() if column not in found]
    if wrong or not file.metadata.num_rows:
        what = f"the columns {', '.join(wrong)} are missing or of another type" if wrong else "holds no rows"
        raise UserError(f"{path}: {what}. Run `dvc repro fetch`.")
    return file


def row_group_tasks(
    file: pq.ParquetFile, path: str, benchmarks: str, folder: Path, settings: CleanSettings
) -> Iterator[CleanTask]:
    first = 0
    for number in range(file.metadata.num_row_groups):
        yield CleanTask(path, number, first, benchmarks, str(folder), settings)
        first += file.metadata.row_group(number).num_rows


def make_part(task: CleanTask) -> CleanedPart:
    """Transform, screen and sign the rows of a row group; write its part files.

    Raises:
        UserError: a null in a required column, or ids that do not ascend.
    """
    with without_garbage_collector():
        return clean_row_group(task)


@contextmanager
def without_garbage_collector() -> Iterator[None]:
    """Turn the collector off: walking syntax trees, which have no cycles, takes it a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def clean_row_group(task: CleanTask) -> CleanedPart:
    """Do the work of `make_part`."""
    folder, settings = Path(task.folder), task.settings
    changed: Counter[str] = Counter()
    batches: list[pa.RecordBatch] = []
    file = pq.ParquetFile(task.path)
    names = row_schema().names
    screened = ScreenedRows()
    for batch in file.iter_batches(SCREEN_BATCH_ROWS, row_groups=[task.number], columns=names):
        batch = batch.select(names)
        batch, counts = transform_batch(batch, settings)
        changed.update(counts)
        batches.append(batch)
        records = batch.to_pylist()
        screened.sides += [question_and_answer(record) for record in records]
        screened.add(
            deque(make_row(record, settings.layout) for record in records), task.benchmarks, settings
        )
    table = pa.Table.from_arrays(pa.Table.from_batches(batches).columns, schema=row_schema())
    write_part(folder, task.number, table, screened)
    return CleanedPart(
        ids=table.column("id").combine_chunks().cast(pa.large_string()),
        sources=table.column("source").combine_chunks().dictionary_encode(),
        dropped_by=np.array(
            [settings.rules.index(drop.rule) if drop else -1 for drop in screened.drops], np.int16
        ),
        has_tests=np.array(screened.has_tests, bool),
        sizes=np.array(screened.sizes, np.int32).reshape(-1, 2),
        digests=digest_pairs(screened.digests),
        fingerprints=digest_pairs(screened.fingerprints),
        shingles=write_shingles(folder, task.number, screened.sides),
        questions=np.array(screened.questions, np.uint64),
        changed=changed,
        benchmarks=Counter(name for drop in screened.drops if drop for name in drop.benchmarks),
    )


@dataclass
class ScreenedRows:
    """What screening finds out about each row of a part."""

    drops: list[RowDrop | None] = field(default_factory=list)
    has_tests: list[bool] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    sides: list[tuple[str, str]] = field(default_factory=list)  # to be shingled; empty for a dropped row
    questions: list[int] = field(default_factory=list)
    proximities: list[list[Proximity]] = field(default_factory=list)
    checks: list[tuple[int, RowCheck]] = field(default_factory=list)  # with the row's index in the part

    def add(self, rows: deque[RowView], benchmarks: str, settings: CleanSettings) -> None:
        """Screen `rows` and empty the deque as it goes, which frees each row's syntax tree."""
        index = load_index(benchmarks, settings.contamination)
        while rows:
            row = rows.popleft()
            drop = first_failed_rule(row, settings, index)
            passed = drop is None
            if passed and settings.validate != "none":
                check = extract_check(row)
                if check:
                    self.checks.append((len(self.drops), check))
            self.drops.append(drop)
            self.has_tests.append(row.has_tests)
            self.sizes.append((len(row.answer), len(row.text)))
            self.digests.append(text_digest(row.text) if passed else NO_DIGEST)
            self.fingerprints.append(
                bytes.fromhex(row.code.fingerprint) or NO_DIGEST if passed else NO_DIGEST
            )
            place = len(self.questions)
            if not passed:
                self.sides[place] = ("", "")
            is_module = row.layout == "whole" and bool(row.code.fingerprint)
            self.questions.append(question_digest(self.sides[place][0], is_module) if passed else 0)
            self.proximities.append(find_proximities(row, index, settings.rules) if passed else [])


def digest_pairs(digests: list[bytes]) -> np.ndarray:
    """Return 16-byte digests as uint64 [n, 2]."""
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def write_part(folder: Path, number: int, table: pa.Table, screened: ScreenedRows) -> None:
    evidence = pa.array([drop and drop.evidence for drop in screened.drops], pa.string())
    pickled = [pickle.dumps(found) if found else None for found in screened.proximities]
    table = table.append_column("evidence", evidence).append_column("near", pa.array(pickled, pa.binary()))
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(folder / f"rows-{number:06}.arrow", table.schema, options=options) as file:
        file.write_table(table)
    if screened.checks:
        (folder / f"checks-{number:06}.pickle").write_bytes(pickle.dumps(screened.checks))


def read_part(folder: Path, number: int) -> pa.Table:
    """Return a part's rows in `row_schema()`, with `evidence` (null if the row passed) and pickled `near`."""
    with (folder / f"rows-{number:06}.arrow").open("rb") as file:
        return pa.ipc.open_file(file).read_all()


def read_checks(folder: Path, number: int) -> list[tuple[int, RowCheck]]:
    """Return the checks of a part's passed rows, each with its row's index in the part."""
    path = folder / f"checks-{number:06}.pickle"
    checks: Any = pickle.loads(path.read_bytes()) if path.exists() else []
    return checks


def unpickle_proximities(pickled: bytes) -> list[Proximity]:
    proximities: list[Proximity] = pickle.loads(pickled)
    return proximities
