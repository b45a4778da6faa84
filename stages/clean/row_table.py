"""What is kept between the passes: numbers of every row (some 150 bytes, however long the texts), and parts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass
class RowTable:
    """Columns of some rows, in the order of the file: those of a part, or of all parts."""

    ids: pa.LargeStringArray
    sources: pa.DictionaryArray
    dropped_by: np.ndarray  # int16 [n], index in `clean.rules` of the dropping rule, -1 if it passed
    has_tests: np.ndarray  # bool [n]
    sizes: np.ndarray  # int32 [n, 2]: characters of the completion and of the whole text
    digests: np.ndarray  # uint64 [n], of the normalized text; 0 for a dropped row
    fingerprints: np.ndarray  # uint64 [n], of the code; 0 without code
    questions: np.ndarray  # uint64 [n], digest of the question, 0 without one
    parents: np.ndarray  # uint64 [n], digest of the parent in the metadata, 0 without one
    shingles: np.ndarray  # int32 [n, 2], shingles of the question and of the answer; 0 for a dropped row
    changed: Counter[str] = field(default_factory=Counter)  # rows changed before the rules, by kind
    # Rows dropped for each benchmark. A row may hold problems of several.
    benchmarks: Counter[str] = field(default_factory=Counter)
    part_rows: tuple[int, ...] = ()  # rows of each part

    @property
    def parts(self) -> Iterator[tuple[int, slice]]:
        """Number and row range of each part."""
        bounds = np.cumsum([0, *self.part_rows]).tolist()
        return ((number, slice(*pair)) for number, pair in enumerate(pairwise(bounds)))


def join_tables(parts: Iterable[RowTable]) -> RowTable:
    """Return one table of all parts; a column of a part is let go as soon as it is joined."""
    listed = list(parts)
    joined: dict[str, Any] = {}
    for column in fields(RowTable):
        values = [getattr(part, column.name) for part in listed]
        if isinstance(values[0], pa.Array):
            joined[column.name] = pa.chunked_array(values).unify_dictionaries().combine_chunks()
        elif isinstance(values[0], np.ndarray):
            joined[column.name] = np.concatenate(values)
        else:
            joined[column.name] = sum(values[1:], values[0])
        for part in listed:
            setattr(part, column.name, None)
    return RowTable(**joined)


def part_path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:06}.arrow"


def read_part(folder: Path, number: int) -> pa.Table:
    """Return a part's rows in `row_schema()`, with `evidence` (null if the row passed), and `near` and `check`,
    pickled (null if there is nothing).
    """
    with part_path(folder, number).open("rb") as file:
        return pa.ipc.open_file(file).read_all()
