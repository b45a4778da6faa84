"""Bring training rows and benchmark problems here, every source pinned by sha256 or commit.

    python -m stages.fetch

Writes data/raw/rows.parquet (one schema for all formats, sorted by id), data/raw/bad_rows.jsonl (rows that were left
out because they cannot be used), data/raw/sources.lock.json (what was asked and what came) and
data/benchmarks/<name>.jsonl. Memory does not follow the number of rows: they wait in a scratch folder beside data/raw.
Nothing of a downloaded package or data set is executed.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError
from stages.common.files import remove, replacing, write_json, write_jsonl
from stages.common.schema import Problem, row_schema
from stages.common.stage import Settings, run
from stages.fetch import mixing
from stages.fetch.benchmark_formats import problems_of
from stages.fetch.external_sort import Runs
from stages.fetch.licences import forbids
from stages.fetch.resolve import deliver
from stages.fetch.row_groups import row_groups
from stages.fetch.settings import FetchSettings
from stages.fetch.source_rows import Tally, batches

if TYPE_CHECKING:
    import pyarrow as pa

RAW = Path("data/raw")
BENCHMARKS = Path("data/benchmarks")
SCRATCH = Path("data/.fetch.tmp")


def main(settings: Settings) -> dict[str, Any]:
    fetch: FetchSettings = settings.fetch
    if not fetch.sources:
        raise UserError("fetch.sources is empty: name at least one source, as conf/fetch/functions.yaml does")
    lock: dict[str, Any] = {"sources": {}, "benchmarks": {}}
    tallies: dict[str, Tally] = {}
    runs = Runs(SCRATCH)
    remove(SCRATCH)
    for source in fetch.sources:
        if forbidden := forbids(source.licence):
            print(f"fetch: {source.name}: its licence {source.licence} forbids {forbidden}: train no model on it that is meant for that", flush=True)  # fmt: skip
    try:
        for source in fetch.sources:
            delivery = deliver(source)
            tally = tallies[source.name] = Tally(source.name, fetch.on_bad_row == "drop")
            for batch in batches(source, delivery.files, tally):
                runs.add(batch)
            lock["sources"][source.name] = {**delivery.lock, "formats": tally.formats}
            print(f"fetch: {source.name}: {tally.rows} of {tally.rows + tally.reasons.total()} candidates")
        limit = None
        if mixing.is_mixed(fetch.sources, fetch.rows):
            limit, left_out = mixing.limits(fetch.sources, shares_of(runs, list(tallies)), fetch.rows)
            for name, reasons in left_out.items():
                tallies[name].reasons.update(reasons)
        suites, lock["benchmarks"] = benchmarks(fetch)
        taken = write(runs, limit, suites, lock, tallies)
    finally:
        remove(SCRATCH)
    sources = {name: counts(tally, taken[name], lock["sources"][name]) for name, tally in tallies.items()}
    problems = {name: len(suite) for name, suite in suites.items()}
    return {"rows": taken.total(), "sources": sources, "benchmarks": problems}


def benchmarks(fetch: FetchSettings) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """Problems of each benchmark, and their entries of the lock."""
    suites: dict[str, list[Problem]] = {}
    lock = {}
    for name, source in fetch.benchmarks.items():
        delivery = deliver(source)
        suites[name] = problems_of(source, delivery.files)
        excluded = {"excluded": source.exclude} if source.exclude else {}
        lock[name] = {**delivery.lock, "problems": len(suites[name]), **excluded}
        print(f"fetch: {name}: {len(suites[name])} problems")
    return suites, lock


def shares_of(runs: Runs, names: list[str]) -> dict[str, Any]:
    """Shares of the rows of each source: 8 bytes a row."""
    import numpy as np

    found: dict[str, list[Any]] = {name: [] for name in names}
    for table in runs.sorted(["id", "source"]):
        of = table["source"].to_numpy()
        places = mixing.shares(table["id"].to_pylist())
        for name in names:
            found[name].append(places[of == name])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def write(
    runs: Runs,
    limit: dict[str, int] | None,
    suites: dict[str, list[Problem]],
    lock: dict[str, Any],
    tallies: dict[str, Tally],
) -> Counter[str]:
    """Write data/raw and data/benchmarks, each whole or not at all. Returns the rows that each source gave."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    taken: Counter[str] = Counter()
    with replacing(RAW) as raw, replacing(BENCHMARKS) as folder:
        raw.mkdir()
        with pq.ParquetWriter(raw / "rows.parquet", row_schema(), compression="zstd") as writer:
            for group in row_groups(rows_by_id(runs, limit)):
                writer.write_table(group)
                for pair in pc.value_counts(group["source"]).to_pylist():
                    taken[pair["values"]] += pair["counts"]
        for name, entry in lock["sources"].items():
            entry["rows"] = taken[name]
        write_json(raw / "sources.lock.json", lock)
        write_jsonl(raw / "bad_rows.jsonl", (row for tally in tallies.values() for row in tally.listed))
        folder.mkdir()
        for name, problems in suites.items():
            write_jsonl(folder / f"{name}.jsonl", [problem.row() for problem in problems])
    return taken


def rows_by_id(runs: Runs, limit: dict[str, int] | None) -> Iterator["pa.Table"]:
    """The rows that are taken, by id."""
    for table in runs.sorted():
        yield mixing.chosen(table, limit) if limit else table


def counts(tally: Tally, taken: int, lock: dict[str, Any]) -> dict[str, Any]:
    """A source's part of reports/fetch.json: candidates are rows and each reason together."""
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
