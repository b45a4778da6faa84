"""Clean the rows of data/raw: filter, decontaminate against data/benchmarks, remove duplicates.

    python -m stages.clean                                       # what `dvc repro clean` runs
    python -m stages.clean clean.near_duplicates.threshold=0.8   # with another value

Writes data/clean: rows.parquet (with `component`, the id that related rows share), dropped.parquet (with the rule that
dropped each row and its evidence) and near.jsonl (the benchmark problems that kept rows come near, and how).
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.clean.decontaminate import CHECKS, build_index, per_benchmark, read_problems
from stages.clean.funnel import funnel, require_rows, table_of
from stages.clean.near import Summary
from stages.clean.rows import checked_table
from stages.clean.screen import Deduplicated, Drop, deduplicate, screen
from stages.common.files import read_parquet, replacing, write_jsonl, write_parquet
from stages.common.stage import Settings, run

RAW = "data/raw/rows.parquet"
BENCHMARKS = "data/benchmarks"
CLEAN = "data/clean"


def main(settings: Settings) -> dict[str, Any]:
    """Clean data/raw into data/clean; returns the funnel."""
    clean = settings.clean
    table = checked_table(read_parquet(RAW), RAW)
    problems = read_problems(BENCHMARKS)
    screened = screen(table, clean, build_index(problems, clean.contamination))
    result = deduplicate(screened, clean)
    drops = {**screened.drops, **result.drops}
    kept = sorted(result.component)
    rules = [*clean.rules, *clean.duplicates]
    checks = [name for name in clean.rules if name in CHECKS]
    counts = funnel(table.column("source").to_pylist(), drops, kept, rules)
    print(table_of(counts))
    if len(checks) < len(CHECKS):
        print(
            f"note: not decontaminated by {', '.join(c for c in CHECKS if c not in checks)} (clean.rules leaves it out)"
        )
    require_rows(counts)
    ids = set(table.column("id").take(kept).to_pylist())
    near = Summary()
    near.add(found for found in screened.near if found.id in ids)
    write(table, drops, result, near)
    return {
        **counts,
        "clusters": result.clusters,
        "largest_cluster": result.largest,
        "components": len(set(result.component.values())),
        "decontaminated_by": checks,
        "contaminated": per_benchmark(problems, [drop.benchmark for drop in drops.values()]),
        "problems_near": per_benchmark(problems, [benchmark for benchmark, _ in near.rows]),
    }


def write(table: pa.Table, drops: dict[int, Drop], result: Deduplicated, near: Summary) -> None:
    """Replace data/clean as a whole."""
    kept, dropped = sorted(result.component), sorted(drops)
    rows = table.take(kept).append_column(
        "component", pa.array([result.component[n] for n in kept], pa.string())
    )
    losses = table.take(pa.array(dropped, pa.int64()))  # typed: none may be dropped
    for name in ("rule", "evidence"):
        losses = losses.append_column(name, pa.array([getattr(drops[n], name) for n in dropped], pa.string()))
    with replacing(CLEAN) as folder:
        Path(folder).mkdir()
        write_parquet(folder / "rows.parquet", rows)
        write_parquet(folder / "dropped.parquet", losses)
        write_jsonl(folder / "near.jsonl", near.lines())


if __name__ == "__main__":
    run("clean", main)
