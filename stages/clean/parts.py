"""The stage's map step: turn row groups of data/raw into part files and a few numbers per row for the driver.

A part holds the rows as they will be written and, of each row, the evidence for its drop, the benchmark
problems that it comes near, and what there is to run. Its shingles lie in a file beside it.
"""

import gc
import pickle
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.clean.contamination.benchmark_proximity import Proximity, find_proximities
from stages.clean.contamination.decontaminate import ProblemIndex, load_index
from stages.clean.duplicates.deduplicate import text_digest
from stages.clean.duplicates.sides import question_and_answer, question_digest
from stages.clean.duplicates.signatures import write_shingles
from stages.clean.row import make_row
from stages.clean.row_table import RowTable, part_path
from stages.clean.screen import RowDrop, first_failed_rule
from stages.clean.settings import CleanSettings
from stages.clean.transform import transform_records
from stages.clean.validate import RowCheck, extract_check
from stages.common.core.errors import UserError
from stages.common.core.files import open_parquet
from stages.common.rows.schema import row_schema

SCREEN_BATCH_ROWS = 1024


@dataclass(frozen=True)
class CleanTask:
    """One row group to clean."""

    path: str
    group: int  # in the file
    number: int  # of its part
    benchmarks: str  # folder of benchmark problems
    folder: str  # where the part files go
    settings: CleanSettings


class ScreenedRow(NamedTuple):
    """What screening finds out about a row; of a dropped one, the first three."""

    drop: RowDrop | None
    has_tests: bool
    sizes: tuple[int, int]
    digest: int = 0
    fingerprint: int = 0
    question: int = 0
    parent: int = 0
    sides: tuple[str, str] = ("", "")  # to be shingled
    near: list[Proximity] | None = None
    check: RowCheck | None = None


def open_raw(path: Path) -> pq.ParquetFile:
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


def make_part(task: CleanTask) -> RowTable:
    """Transform and screen the rows of a row group; write its part and its shingles.

    Raises:
        UserError: a text that is not UTF-8.
    """
    file, index = pq.ParquetFile(task.path), load_index(task.benchmarks, task.settings.contamination)
    changed: Counter[str] = Counter()
    batches: list[pa.RecordBatch] = []
    screened: list[ScreenedRow] = []
    with without_garbage_collector():
        for batch in file.iter_batches(
            SCREEN_BATCH_ROWS, row_groups=[task.group], columns=row_schema().names
        ):
            records, counts = transform_records(records_of(batch, task.path), task.settings)
            changed.update(counts)
            batches.append(pa.RecordBatch.from_pylist(records, schema=row_schema()))
            screened += [screen_row(record, index, task.settings) for record in records]
    table = pa.Table.from_batches(batches)
    folder, rules = Path(task.folder), task.settings.rules
    write_part(folder, task.number, table, screened)
    drops = [row.drop for row in screened]
    return RowTable(
        ids=table.column("id").combine_chunks().cast(pa.large_string()),
        sources=table.column("source").combine_chunks().dictionary_encode(),
        dropped_by=np.array([rules.index(drop.rule) if drop else -1 for drop in drops], np.int16),
        has_tests=np.array([row.has_tests for row in screened]),
        sizes=np.array([row.sizes for row in screened], np.int32),
        digests=np.array([row.digest for row in screened], np.uint64),
        fingerprints=np.array([row.fingerprint for row in screened], np.uint64),
        questions=np.array([row.question for row in screened], np.uint64),
        parents=np.array([row.parent for row in screened], np.uint64),
        shingles=write_shingles(folder, task.number, [row.sides for row in screened]),
        changed=changed,
        benchmarks=Counter(name for drop in drops if drop for name in drop.benchmarks),
        part_rows=(len(screened),),
    )


def records_of(batch: pa.RecordBatch, path: str) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a text is not UTF-8 ({error}). Run `dvc repro fetch`.") from None


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


def screen_row(record: dict[str, Any], index: ProblemIndex, settings: CleanSettings) -> ScreenedRow:
    """Apply the rules to a record of `row_schema()`; its syntax tree ends with the call."""
    row = make_row(record, settings.layout)
    drop = first_failed_rule(row, settings, index)
    sizes = (len(row.answer), len(row.text))
    if drop:
        return ScreenedRow(drop, bool(row.tests), sizes)
    code, sides = row.code.fingerprint, question_and_answer(record)
    return ScreenedRow(
        None,
        bool(row.tests),
        sizes,
        text_digest(row.text + (record["tools"] or "")),
        int(code[:16] or "0", 16),
        question_digest(sides[0], row.layout == "whole" and bool(code)),
        text_digest(row.parent) if row.parent else 0,
        sides,
        find_proximities(row, index, settings.rules) or None,
        extract_check(row) if settings.validate != "none" else None,
    )


def write_part(folder: Path, number: int, table: pa.Table, screened: list[ScreenedRow]) -> None:
    evidence = [row.drop and row.drop.evidence for row in screened]
    table = table.append_column("evidence", pa.array(evidence, pa.string()))
    for name in ("near", "check"):
        values = [getattr(row, name) for row in screened]
        pickled = [value and pickle.dumps(value) for value in values]
        table = table.append_column(name, pa.array(pickled, pa.binary()))
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(part_path(folder, number), table.schema, options=options) as file:
        file.write_table(table)
