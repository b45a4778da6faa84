"""Fetch training rows and benchmark problems from sources pinned by sha256 or commit.

    python -m stages.fetch

Writes data/raw/rows.parquet (one schema for all formats, in the order of the sources), data/raw/bad_rows.jsonl
(rejected rows), data/raw/sources.lock.json (what each source requested and what it resolved to) and
data/benchmarks/<name>.jsonl. Memory hardly grows with the number of rows (28 bytes each): they wait on disk, in a
scratch folder beside data/raw. Nothing from a downloaded package or data set is executed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, remove, write_json, write_jsonl
from stages.common.core.stage import Settings, run
from stages.common.rows.row_groups import row_groups
from stages.common.rows.schema import BENCHMARK_FOLDER, Problem, row_schema
from stages.common.spdx import allowed_ids
from stages.fetch import mixing
from stages.fetch.licences import forbids, require_allowed
from stages.fetch.problem_rows import chosen_problems
from stages.fetch.resolve import resolve_source
from stages.fetch.row_formats import CHAT_COLUMNS, QUESTIONS
from stages.fetch.row_spool import RowSpool
from stages.fetch.settings import FetchSettings, Source
from stages.fetch.source_rows import Tally, row_batches
from stages.fetch.unread import LICENCE_NAME

if TYPE_CHECKING:
    import pyarrow as pa

RAW_FOLDER = Path("data/raw")
FETCH_SCRATCH = Path("data/.fetch.tmp")


def main(settings: Settings) -> dict[str, Any]:
    fetch: FetchSettings = settings.fetch
    if not fetch.sources:
        raise UserError("fetch.sources is empty: list at least one source, as conf/fetch/functions.yaml does")
    allowed = sorted(allowed_ids("fetch.licences", fetch.licences))
    lock: dict[str, Any] = {"licences": allowed, "sources": {}, "benchmarks": {}}
    tallies: dict[str, Tally] = {}
    spool = RowSpool(FETCH_SCRATCH)
    remove(FETCH_SCRATCH)
    for source in fetch.sources:
        if forbidden := source.licence and forbids(source.licence):
            print(f"fetch: {source.name}: its licence {source.licence} forbids {forbidden}: do not train a model for that on it", flush=True)  # fmt: skip
    try:
        for source in fetch.sources:
            resolved = resolve_source(source)
            if not source.licence:
                source = licensed(source, resolved.lock["licence"], fetch.licences)
            tally = tallies[source.name] = Tally(source.name, fetch.on_bad_row == "drop")
            for batch in row_batches(source, resolved.files, tally, fetch.licences):
                spool.add(source.name, batch)
            lock["sources"][source.name] = {**resolved.lock, "formats": tally.formats, **tally.reading}
            print_reading(source, tally)
        taken, left_out = mixing.mix(fetch.sources, spool.rows_of, fetch.rows)
        for name, reasons in left_out.items():
            tallies[name].reasons.update(reasons)
            lock["sources"][name]["rows"] = taken[name]
        problems, lock["benchmarks"] = resolve_benchmarks(fetch)
        write_outputs(spool.take(taken), problems, lock, tallies)
    finally:
        remove(FETCH_SCRATCH)
    return {
        "rows": sum(taken.values()),
        "sources": {
            name: source_report(t, taken[name], lock["sources"][name]) for name, t in tallies.items()
        },
        "benchmarks": {name: len(listed) for name, listed in problems.items()},
    }


def licensed(source: Source, licence: str, licences: Sequence[str]) -> Source:
    """Return a repository's source with the licence that the repository names.

    Raises:
        UserError: fetch.licences does not have it.
    """
    try:
        require_allowed(source.name, licence, licences)
    except ValueError as error:
        raise UserError(str(error)) from None
    return replace(source, licence=licence)


def print_reading(source: Source, tally: Tally) -> None:
    """Print how the source's rows were read, what was not used of them, and what fits them."""
    read, unused = tally.reading.get("read_as", []), tally.reading.get("columns_not_used", [])
    candidates, how = tally.rows + tally.reasons.total(), f", read as {' + '.join(read)}" if read else ""
    print(f"fetch: {source.name}: {tally.rows} rows of {candidates} candidates{how}")
    if unused:
        print(f"fetch: {source.name}: columns not used: {', '.join(unused)}")
    for name in unused:
        if "licence" not in source.columns and LICENCE_NAME.search(name):
            print(f"fetch: {source.name}: the rows' own licences were not looked at: `columns: {{licence: {name}}}` does")  # fmt: skip
    for what, count in tally.reading.get("left_out", {}).items():
        print(f"fetch: {source.name}: left out: {count} {what}")
    if {*read} & {*QUESTIONS, *CHAT_COLUMNS} and "code" not in read:
        print(
            f"fetch: {source.name}: these are instructions: clean=instruct and prompt=alpaca or chat fit them"
        )


def resolve_benchmarks(fetch: FetchSettings) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """Return the problems of each benchmark and its entry in the lock."""
    problems: dict[str, list[Problem]] = {}
    lock = {}
    for name, source in fetch.benchmarks.items():
        resolved = resolve_source(source)
        problems[name] = chosen_problems(source, resolved.files)
        chosen = {"excluded": source.exclude, "tasks": source.tasks}
        lock[name] = {
            **resolved.lock,
            "problems": len(problems[name]),
            **{key: value for key, value in chosen.items() if value},
        }
        print(f"fetch: {name}: {len(problems[name])} problems")
    return problems, lock


def write_outputs(
    rows: Iterable["pa.Table"],
    problems: dict[str, list[Problem]],
    lock: dict[str, Any],
    tallies: dict[str, Tally],
) -> None:
    """Write data/raw and data/benchmarks, each whole or not at all."""
    import pyarrow.parquet as pq

    with atomic_folder(RAW_FOLDER) as raw, atomic_folder(BENCHMARK_FOLDER) as benchmarks:
        with pq.ParquetWriter(raw / "rows.parquet", row_schema(), compression="zstd") as writer:
            for group in row_groups(rows):
                writer.write_table(group)
        write_json(raw / "sources.lock.json", lock)
        write_jsonl(raw / "bad_rows.jsonl", (row for tally in tallies.values() for row in tally.listed))
        for name, listed in problems.items():
            write_jsonl(benchmarks / f"{name}.jsonl", [problem.row() for problem in listed])


def source_report(tally: Tally, taken: int, lock: dict[str, Any]) -> dict[str, Any]:
    """Return a source's entry in reports/fetch.json; its candidates are the sum over all reasons."""
    reasons = {"taken": taken, **tally.reasons}
    return {
        "candidates": sum(reasons.values()),
        "rows": taken,
        "reasons": reasons,
        "bytes": lock["bytes"],
        "formats": tally.formats,
    }


if __name__ == "__main__":
    run("fetch", main)
