"""Clean the rows of data/raw: filter them, decontaminate against data/benchmarks, remove duplicates.

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

from stages.clean.contamination.benchmark_proximity import ProximitySummary
from stages.clean.contamination.decontaminate import (
    CONTAMINATION_CHECKS,
    count_by_benchmark,
    read_problems,
)
from stages.clean.duplicates.deduplicate import deduplicate, preference_ranks
from stages.clean.duplicates.near_duplicates import Likeness
from stages.clean.duplicates.signatures import sign, sorted_unique
from stages.clean.funnel import Funnel, funnel_table, require_kept_rows
from stages.clean.parts import make_part, open_raw, row_group_tasks
from stages.clean.row_table import FAILED, PASSED, RowTable, build_row_table, validate_rows
from stages.clean.settings import CleanSettings
from stages.clean.validate import sandbox_level
from stages.clean.write import resolve_outcomes, write_rows
from stages.common.core.files import atomic_folder, read_json, remove, unreadable_parquet, write_jsonl
from stages.common.core.stage import Settings, run
from stages.common.engine import Engine, open_engine
from stages.common.rows.schema import BENCHMARK_FOLDER

RAW_ROWS = "data/raw/rows.parquet"
SOURCES_LOCK = Path("data/raw/sources.lock.json")
CLEAN_FOLDER = "data/clean"
PART_FOLDER = ".cache/clean"


def main(settings: Settings) -> dict[str, Any]:
    """Clean data/raw into data/clean; return the funnel."""
    clean = settings.clean
    if SOURCES_LOCK.exists():  # else rows that another program wrote: of any licence
        clean.licence.ids = frozenset(read_json(SOURCES_LOCK)["licences"])
    problems = read_problems(BENCHMARK_FOLDER)
    open_raw(RAW_ROWS)
    with part_folder() as folder, open_engine(settings.engine) as engine:
        row_table = screen_rows(engine, folder, clean)
        metrics, proximities = deduplicate_and_write(row_table, engine, clean)
    return {
        **metrics,
        "decontaminated_by": [name for name in clean.rules if name in CONTAMINATION_CHECKS],
        "contaminated": count_by_benchmark(problems, row_table.benchmarks.elements()),
        "problems_near": count_by_benchmark(problems, [benchmark for benchmark, _ in proximities.rows]),
    }


@contextmanager
def part_folder() -> Iterator[Path]:
    """Open an empty folder for part files, first removing what a killed run left; remove it at the end."""
    folder = Path(PART_FOLDER)
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def screen_rows(engine: Engine, folder: Path, settings: CleanSettings) -> RowTable:
    """Run the first pass: apply the rules on single rows and write part files."""
    file = open_raw(RAW_ROWS)
    try:
        parts = engine.map(
            make_part, row_group_tasks(file, RAW_ROWS, str(BENCHMARK_FOLDER), folder, settings)
        )
        return build_row_table(parts, file.metadata.num_rows, folder)
    except pa.ArrowInvalid as error:
        raise unreadable_parquet(RAW_ROWS, error) from None


def deduplicate_and_write(
    row_table: RowTable, engine: Engine, settings: CleanSettings
) -> tuple[dict[str, Any], ProximitySummary]:
    """Run tests, remove duplicates and write the second pass, which replaces data/clean as a whole.

    Returns:
        Metrics, and the problems that kept rows come near.
    """
    runs_tests = settings.validate != "none"
    validated, rejections = validate_rows(row_table, settings) if runs_tests else (None, {})
    passed = row_table.dropped_by < 0
    passed[list(rejections)] = False
    ranks = preference_ranks(
        row_table.has_tests if validated is None else validated == PASSED, row_table.sizes
    )
    signatures = sign(engine, row_table.folder, row_table.shingles, settings.near_duplicates)
    likeness = Likeness(signatures, row_table.questions, settings.near_duplicates)
    duplicates = deduplicate(settings.duplicates, passed, ranks, row_table.keys, likeness)
    row_table.keys.clear()
    outcomes = resolve_outcomes(row_table, duplicates, validated, rejections, settings)
    funnel = Funnel(outcomes.rules)
    with atomic_folder(CLEAN_FOLDER) as folder:
        proximities = write_rows(row_table, outcomes, signatures, folder, funnel)
        write_jsonl(folder / "near.jsonl", proximities.lines())
        counts = funnel.counts(len(row_table.dropped_by))
        print(funnel_table(counts))
        print_skipped_checks(settings)
        require_kept_rows(counts)
    metrics = {
        **counts,
        "changed": dict(sorted(row_table.changed.items())),
        "clusters": duplicates.clusters,
        "largest_cluster": duplicates.largest,
        "cluster_sizes": duplicates.sizes,
        "components": len(sorted_unique(duplicates.component[outcomes.dropped_by < 0])),
        "near": duplicates.near,
        **({} if validated is None else {"validated": validation_counts(validated, settings)}),
    }
    return metrics, proximities


def print_skipped_checks(settings: CleanSettings) -> None:
    skipped = [name for name in CONTAMINATION_CHECKS if name not in settings.rules]
    if skipped:
        print(f"note: not decontaminated by {', '.join(skipped)} (clean.rules leaves it out)")


def validation_counts(validated: np.ndarray, settings: CleanSettings) -> dict[str, Any]:
    """Count rows whose checks passed, failed, or could not run, and name the sandbox level."""
    passed, failed = int((validated == PASSED).sum()), int((validated == FAILED).sum())
    return {
        "passed": passed,
        "failed": failed,
        "not_run": len(validated) - passed - failed,
        **sandbox_level(settings),
    }


if __name__ == "__main__":
    run("clean", main, observes=("engine",))
