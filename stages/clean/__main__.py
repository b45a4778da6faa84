"""Clean the rows of data/raw and data/sampled: filter them, decontaminate against data/benchmarks, remove duplicates.

    python -m stages.clean                                       # what `dvc repro clean` runs
    python -m stages.clean clean.near_duplicates.threshold=0.8   # with another value
    python -m stages.clean engine.workers=1                      # in one process; writes the same bytes

Writes three files to data/clean. rows.parquet adds `component`, an id shared by related rows, and, where
tests were run, `validated`. dropped.parquet adds the rule that dropped each row and its evidence. near.jsonl
lists the benchmark problems that kept rows come near, and how.

Rows stream through twice. The first pass screens each row group into a part file and returns a few numbers
per row; parts are then signed. Duplicates are found from numbers and signatures. The second pass reads the
parts and writes the result.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.clean.contamination.decontaminate import (
    CONTAMINATION_CHECKS,
    count_by_benchmark,
    read_problems,
)
from stages.clean.duplicates.deduplicate import deduplicate, preference_ranks
from stages.clean.duplicates.near_duplicates import Likeness
from stages.clean.duplicates.signatures import Signatures, sign, sorted_unique
from stages.clean.funnel import funnel_counts, funnel_table, require_kept_rows
from stages.clean.parts import CleanTask, make_part, open_raw
from stages.clean.row_table import RowTable, join_tables
from stages.clean.settings import CleanSettings
from stages.clean.validate import PASSED, validate_rows, validation_counts
from stages.clean.write import VALIDATE_RULE, RowOutcomes, write_rows
from stages.common.core.files import (
    atomic_folder,
    open_parquet,
    read_json,
    remove,
    unreadable_parquet,
    write_jsonl,
)
from stages.common.core.paths import RAW_ROWS, SAMPLED
from stages.common.core.stage import Settings, run
from stages.common.engine import Engine, open_engine
from stages.common.rows.schema import BENCHMARK_FOLDER

SOURCES_LOCK = Path("data/raw/sources.lock.json")
CLEAN_FOLDER = "data/clean"
PART_FOLDER = Path(".cache/clean")


def main(settings: Settings) -> dict[str, Any]:
    """Clean data/raw into data/clean; return the funnel."""
    clean = settings.clean
    if SOURCES_LOCK.exists():  # else rows that another program wrote: of any licence
        clean.licence.ids = frozenset(read_json(SOURCES_LOCK)["licences"])
    problems = read_problems(BENCHMARK_FOLDER)
    with part_folder(), open_engine(settings.engine) as engine:
        row_table = screen_rows(engine, clean)
        outcomes, signatures = find_outcomes(row_table, engine, clean)
        counts = funnel_counts(outcomes.rules, outcomes.dropped_by, row_table.sources)
        print(funnel_table(counts))
        skipped = [name for name in CONTAMINATION_CHECKS if name not in clean.rules]
        if skipped:
            print(f"note: not decontaminated by {', '.join(skipped)} (clean.rules leaves it out)")
        require_kept_rows(counts)
        with atomic_folder(CLEAN_FOLDER) as folder:
            proximities = write_rows(folder, PART_FOLDER, row_table, outcomes, signatures)
            write_jsonl(folder / "near.jsonl", proximities.lines())
    duplicates = outcomes.duplicates
    return {
        **counts,
        "changed": dict(sorted(row_table.changed.items())),
        "cluster_sizes": duplicates.sizes,
        "components": len(sorted_unique(duplicates.component[outcomes.dropped_by < 0])),
        "near": duplicates.near,
        **(
            {}
            if outcomes.validated is None
            else {"validated": validation_counts(outcomes.validated, clean.validation)}
        ),
        "decontaminated_by": [name for name in clean.rules if name in CONTAMINATION_CHECKS],
        "contaminated": count_by_benchmark(problems, row_table.benchmarks.elements()),
        "problems_near": count_by_benchmark(problems, [benchmark for benchmark, _ in proximities.rows]),
    }


@contextmanager
def part_folder() -> Iterator[None]:
    """Make an empty folder for part files, first removing what a killed run left; remove it at the end."""
    remove(PART_FOLDER)
    PART_FOLDER.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(PART_FOLDER, ignore_errors=True)


def screen_rows(engine: Engine, settings: CleanSettings) -> RowTable:
    """Run the first pass: apply the rules on single rows and write part files."""
    groups = [(str(RAW_ROWS), group) for group in range(open_raw(RAW_ROWS).num_row_groups)]
    sampled = SAMPLED / "rows.parquet"
    if sampled.exists():
        groups += [(str(sampled), group) for group in range(open_parquet(sampled).num_row_groups)]
    tasks = (
        CleanTask(path, group, number, str(BENCHMARK_FOLDER.absolute()), str(PART_FOLDER), settings)
        for number, (path, group) in enumerate(groups)
    )
    try:
        return join_tables(engine.map(make_part, tasks))
    except pa.ArrowInvalid as error:
        raise unreadable_parquet(RAW_ROWS, error) from None


def find_outcomes(
    row_table: RowTable, engine: Engine, settings: CleanSettings
) -> tuple[RowOutcomes, Signatures]:
    """Run tests and find duplicates; return what becomes of each row, by all rules, and the signatures."""
    dropped_by, has_tests = row_table.dropped_by.copy(), row_table.has_tests
    validated: np.ndarray | None = None
    rejections: dict[int, str] = {}
    rules = list(settings.rules)
    if settings.validate != "none":
        validated, rejections = validate_rows(row_table, PART_FOLDER, settings)
        has_tests = validated == PASSED
    if settings.validate == "require":
        dropped_by[list(rejections)] = len(rules)
        rules.append(VALIDATE_RULE)
    shingles = [row_table.shingles[rows] for _, rows in row_table.parts]
    signatures = sign(engine, PART_FOLDER, shingles, settings.near_duplicates)
    duplicates = deduplicate(
        settings.duplicates,
        dropped_by < 0,
        preference_ranks(has_tests, row_table.sizes),
        {"exact": row_table.digests, "ast": row_table.fingerprints},
        Likeness(signatures, row_table.questions, settings.near_duplicates, row_table.parents),
    )
    is_copy = duplicates.dropped_by >= 0
    dropped_by[is_copy] = duplicates.dropped_by[is_copy] + len(rules)
    rules += settings.duplicates
    return RowOutcomes(rules, dropped_by, duplicates, validated, rejections), signatures


if __name__ == "__main__":
    run("clean", main, observes=("engine",))
