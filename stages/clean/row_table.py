"""What the driver knows of every row: a few hundred bytes each, however long the texts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.clean.parts import CleanedPart, read_checks
from stages.clean.settings import CleanSettings
from stages.clean.validate import rejection_evidence, run_checks

NOT_RUN, FAILED, PASSED = -1, 0, 1


@dataclass
class RowTable:
    """Columns of all rows, parts concatenated in file order. See `CleanedPart` for the columns."""

    folder: Path  # of the part files
    ids: pa.LargeStringArray
    sources: list[pa.DictionaryArray]  # by part
    dropped_by: np.ndarray  # int16 [n], index in `clean.rules` of the dropping rule, -1 if it passed
    has_tests: np.ndarray  # bool [n]
    sizes: np.ndarray  # int32 [n, 2]
    keys: dict[str, np.ndarray]  # duplicate rule -> uint64 [n, 2]: `exact` digests, `ast` fingerprints
    shingles: list[np.ndarray]  # by part, int32 [rows, 2]
    questions: np.ndarray  # uint64 [n]
    changed: Counter[str] = field(default_factory=Counter)
    benchmarks: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> Iterator[tuple[int, slice]]:
        """Number and row range of each part."""
        bounds = [0, *accumulate(map(len, self.shingles))]
        return ((number, slice(*bounds[number : number + 2])) for number in range(len(bounds) - 1))


def build_row_table(parts: Iterable[CleanedPart], rows: int, folder: Path) -> RowTable:
    """Collect the parts of a file of `rows` rows as they arrive, holding each value once."""
    dropped_by, has_tests = np.empty(rows, np.int16), np.empty(rows, bool)
    sizes, questions = np.empty((rows, 2), np.int32), np.empty(rows, np.uint64)
    digests, fingerprints = np.empty((rows, 2), np.uint64), np.empty((rows, 2), np.uint64)
    ids: list[pa.Array] = []
    sources, shingles = [], []
    changed: Counter[str] = Counter()
    benchmarks: Counter[str] = Counter()
    first = 0
    for part in parts:
        part_rows = slice(first, first + len(part.dropped_by))
        dropped_by[part_rows], has_tests[part_rows] = part.dropped_by, part.has_tests
        sizes[part_rows], questions[part_rows] = part.sizes, part.questions
        digests[part_rows], fingerprints[part_rows] = part.digests, part.fingerprints
        ids.append(part.ids)
        sources.append(part.sources)
        shingles.append(part.shingles)
        changed += part.changed
        benchmarks += part.benchmarks
        first = part_rows.stop
    return RowTable(
        folder,
        pa.concat_arrays(ids) if ids else pa.array([], pa.large_string()),
        sources,
        dropped_by,
        has_tests,
        sizes,
        {"exact": digests, "ast": fingerprints},
        shingles,
        questions,
        changed,
        benchmarks,
    )


def validate_rows(row_table: RowTable, settings: CleanSettings) -> tuple[np.ndarray, dict[int, str]]:
    """Run the tests and doctests of the rows that passed the rules.

    Returns:
        int8 [n]: NOT_RUN, FAILED or PASSED; and the evidence for each row that `clean.validate` drops, by row
        number.
    """
    validated = np.full(len(row_table.dropped_by), NOT_RUN, np.int8)
    rejections: dict[int, str] = {}
    for number, rows in row_table.parts:
        checks = read_checks(row_table.folder, number)
        check_of_row = {rows.start + place: i for i, (place, _) in enumerate(checks)}
        outcomes = run_checks([check for _, check in checks], settings)
        for row in (rows.start + np.flatnonzero(row_table.dropped_by[rows] < 0)).tolist():
            outcome = outcomes[check_of_row[row]] if row in check_of_row else None
            if outcome is not None and outcome.passed is not None:
                validated[row] = PASSED if outcome.passed else FAILED
            evidence = rejection_evidence(outcome, settings)
            if evidence:
                rejections[row] = evidence
    return validated, rejections
