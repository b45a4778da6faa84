"""What the driver knows of all rows: a few hundred bytes a row, whatever the length of texts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.clean.duplicates.near_duplicates import Signatures
from stages.clean.parts import Part, read_checks
from stages.clean.raw import require_sorted
from stages.clean.settings import CleanSettings
from stages.clean.validate import rejected, run_checks

NOT_RUN, FAILED, PASSED = -1, 0, 1


@dataclass
class Survey:
    """Rows of all parts, in the order of the file."""

    scratch: Path
    ids: pa.LargeStringArray
    sources: list[pa.DictionaryArray]  # by part
    rules: np.ndarray  # int16 [n], place in `clean.rules` of the rule that dropped it; -1: it passed
    tests: np.ndarray  # bool [n]
    sizes: np.ndarray  # int32 [n, 2]
    keys: dict[str, np.ndarray]  # of the rules over all rows, uint64 [n, 2]
    signatures: Signatures
    changed: Counter[str] = field(default_factory=Counter)
    benchmarks: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> Iterator[tuple[int, slice]]:
        """Number and rows of each part."""
        bounds = self.signatures.bounds.tolist()
        return ((number, slice(*bounds[number : number + 2])) for number in range(len(bounds) - 1))


def survey(parts: Iterable[Part], rows: int, scratch: Path, path: str) -> Survey:
    """Put the parts of a file of `rows` rows together as they come: each figure is held once.

    Raises:
        UserError: ids do not ascend from part to part.
    """
    rules, tests = np.empty(rows, np.int16), np.empty(rows, bool)
    sizes = np.empty((rows, 2), np.int32)
    exact, ast = np.empty((rows, 2), np.uint64), np.empty((rows, 2), np.uint64)
    ids: list[pa.Array] = []
    sources, shingles = [], []
    changed: Counter[str] = Counter()
    benchmarks: Counter[str] = Counter()
    first = 0
    for part in parts:
        if ids:
            require_sorted(pa.concat_arrays([ids[-1][-1:], part.ids[:1]]), path, first - 1)
        place = slice(first, first + len(part.rules))
        rules[place], tests[place], sizes[place] = part.rules, part.tests, part.sizes
        exact[place], ast[place] = part.digests, part.fingerprints
        ids.append(part.ids)
        sources.append(part.sources)
        shingles.append(part.shingles)
        changed += part.changed
        benchmarks += part.benchmarks
        first = place.stop
    return Survey(
        scratch,
        pa.concat_arrays(ids) if ids else pa.array([], pa.large_string()),
        sources,
        rules,
        tests,
        sizes,
        {"exact": exact, "ast": ast},
        Signatures(scratch, shingles),
        changed,
        benchmarks,
    )


def validate(found: Survey, settings: CleanSettings) -> tuple[np.ndarray, dict[int, str]]:
    """Run what rows that passed bring with them.

    Returns:
        int8 [n]: NOT_RUN, FAILED or PASSED, and the evidence for each row that is to be dropped for it.
    """
    state = np.full(len(found.rules), NOT_RUN, np.int8)
    evidence: dict[int, str] = {}
    for number, rows in found.parts:
        waiting = read_checks(found.scratch, number)
        places = {rows.start + place: i for i, (place, _) in enumerate(waiting)}
        outcomes = run_checks([check for _, check in waiting], settings)
        for row in (rows.start + np.flatnonzero(found.rules[rows] < 0)).tolist():
            outcome = outcomes[places[row]] if row in places else None
            if outcome is not None and outcome.passed is not None:
                state[row] = PASSED if outcome.passed else FAILED
            reason = rejected(outcome, settings)
            if reason:
                evidence[row] = reason
    return state, evidence
