"""Clean the rows of data/raw: filter, decontaminate against data/benchmarks, remove duplicates.

    python -m stages.clean                                       # what `dvc repro clean` runs
    python -m stages.clean clean.near_duplicates.threshold=0.8   # with another value
    python -m stages.clean engine.workers=1                      # in one process; the same bytes

Writes data/clean: rows.parquet (with `component`, the id that related rows share, and `validated` where their tests were
run), dropped.parquet (with the rule that dropped each row and its evidence) and near.jsonl (the benchmark problems that
kept rows come near, and how). Rows stream: a row group at a time is screened into part files, a few numbers a row come
back, duplicates are told by these, and a second pass over the parts writes the result.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.clean.contamination.benchmark_proximity import Summary
from stages.clean.contamination.decontaminate import CHECKS, per_benchmark, read_problems
from stages.clean.duplicates.deduplicate import deduplicate, ranks_of
from stages.clean.duplicates.near_duplicates import sorted_unique
from stages.clean.funnel import Funnel, require_rows, table_of
from stages.clean.parts import make_part, tasks_of
from stages.clean.raw import open_raw
from stages.clean.row_table import PASSED, Survey, survey, validate
from stages.clean.settings import CleanSettings
from stages.clean.validate import isolation
from stages.clean.write import fate_of, write_rows
from stages.common.engine import Engine, open_engine
from stages.common.files import atomic_write, remove, unreadable_parquet, write_jsonl
from stages.common.stage import Settings, run

RAW = "data/raw/rows.parquet"
BENCHMARKS = "data/benchmarks"
CLEAN = "data/clean"
SCRATCH = ".cache/clean"


def main(settings: Settings) -> dict[str, Any]:
    """Clean data/raw into data/clean; returns the funnel."""
    clean = settings.clean
    problems = read_problems(BENCHMARKS)
    open_raw(RAW)
    with scratch_folder() as scratch, open_engine(settings.engine) as engine:
        found = screen(engine, scratch, clean)
        metrics, near = finish(found, clean)
    checks = [name for name in clean.rules if name in CHECKS]
    return {
        **metrics,
        "decontaminated_by": checks,
        "contaminated": per_benchmark(problems, found.benchmarks.elements()),
        "problems_near": per_benchmark(problems, [benchmark for benchmark, _ in near.rows]),
    }


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for part files, removed at the end; what a killed run left is removed first."""
    scratch = Path(SCRATCH)
    remove(scratch)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def screen(engine: Engine, scratch: Path, settings: CleanSettings) -> Survey:
    """The first pass: the rules on single rows."""
    file = open_raw(RAW)
    try:
        parts = engine.map(make_part, tasks_of(file, RAW, BENCHMARKS, scratch, settings))
        return survey(parts, file.metadata.num_rows, scratch, RAW)
    except pa.ArrowInvalid as error:
        raise unreadable_parquet(RAW, error) from None


def finish(found: Survey, settings: CleanSettings) -> tuple[dict[str, Any], Summary]:
    """Validation, duplicates and the second pass, which replaces data/clean as a whole; figures, and what is near."""
    state, rejected = validate(found, settings) if settings.validate != "none" else (None, {})
    passed = found.rules < 0
    passed[list(rejected)] = False
    ranks = ranks_of(found.tests if state is None else state == PASSED, found.sizes)
    result = deduplicate(
        settings.duplicates, passed, ranks, found.keys, found.signatures, settings.near_duplicates
    )
    found.keys.clear()
    fate = fate_of(found, result, state, rejected, settings)
    funnel = Funnel(fate.rules)
    with atomic_write(CLEAN) as folder:
        folder.mkdir()
        near = write_rows(found, fate, settings, folder, funnel)
        write_jsonl(folder / "near.jsonl", near.lines())
        counts = funnel.counts(len(found.rules))
        print(table_of(counts))
        tell_decontamination(settings)
        require_rows(counts)
    figures = {
        **counts,
        "changed": dict(sorted(found.changed.items())),
        "clusters": result.clusters,
        "largest_cluster": result.largest,
        "cluster_sizes": result.sizes,
        "components": len(sorted_unique(result.component[fate.rule < 0])),
        "near": result.near,
        **({} if state is None else {"validated": validation(state, settings)}),
    }
    return figures, near


def tell_decontamination(settings: CleanSettings) -> None:
    missing = [name for name in CHECKS if name not in settings.rules]
    if missing:
        print(f"note: not decontaminated by {', '.join(missing)} (clean.rules leaves it out)")


def validation(state: Any, settings: CleanSettings) -> dict[str, Any]:
    """Rows whose checks passed, failed, or could not be run, and where they ran."""
    passed, failed = int((state == PASSED).sum()), int((state == 0).sum())
    return {
        "passed": passed,
        "failed": failed,
        "not_run": len(state) - passed - failed,
        **isolation(settings),
    }


if __name__ == "__main__":
    run("clean", main, observes=("engine",))
