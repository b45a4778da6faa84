"""Read and mix sources into rows as fetch does, without running the stage."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.rows.row_groups import row_groups
from stages.fetch import mixing
from stages.fetch.columns import RowReader
from stages.fetch.row_spool import RowSpool
from stages.fetch.settings import Source
from stages.fetch.source_file import SourceFile
from stages.fetch.source_rows import Tally, row_batches


def mixed(
    sources: Sequence[tuple[Source, list[SourceFile]]],
    rows: int = 0,
    drop: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, Tally]]:
    """Return rows in the order of data/raw, and each source's tally with `taken` among its reasons."""
    with tempfile.TemporaryDirectory() as folder:
        spool, tallies = RowSpool(Path(folder)), {}
        for source, files in sources:
            tallies[source.name] = Tally(source.name, drop)
            for batch in row_batches(source, files, tallies[source.name]):
                spool.add(source.name, batch)
        taken, left_out = mixing.mix([source for source, _ in sources], spool.rows_of, rows)
        for name, reasons in left_out.items():
            tallies[name].reasons.update(reasons)
        found = [row for group in row_groups(spool.take(taken)) for row in group.to_pylist()]
    for name, count in Counter(row["source"] for row in found).items():
        tallies[name].reasons["taken"] = count
    return found, tallies


def source_rows(
    source: Source, files: list[SourceFile], drop: bool = False
) -> tuple[list[dict[str, Any]], Counter[str]]:
    rows, tallies = mixed([(source, files)], drop=drop)
    return rows, tallies[source.name].reasons


def read_one(row: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Return the columns of data/raw of the only row of a source with these fields."""
    reader = RowReader(Source(name="mine", kind="file", licence="MIT", **given))
    reader.decide([row], "source 'mine'")
    return {**dict.fromkeys(("prompt", "completion", "messages", "tests")), **reader.read(row, "x, row 1")}
