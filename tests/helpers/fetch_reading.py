"""What tests of fetch share: the rows that sources come to, without the stage."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.fetch import mixing
from stages.fetch.__main__ import rows_by_id, shares_of
from stages.fetch.external_sort import Runs
from stages.fetch.origin import File
from stages.fetch.row_groups import row_groups
from stages.fetch.settings import Source
from stages.fetch.source_rows import Tally, batches


def mixed(
    sources: Sequence[tuple[Source, list[File]]], rows: int = 0, drop: bool = False, run_bytes: int = 2**26
) -> tuple[list[dict[str, Any]], dict[str, Tally]]:
    """Rows in the order of data/raw, and each source's tally with `taken` among its reasons."""
    with tempfile.TemporaryDirectory() as folder:
        runs, tallies, limit = Runs(Path(folder), run_bytes), {}, None
        for source, files in sources:
            tallies[source.name] = Tally(source.name, drop)
            for batch in batches(source, files, tallies[source.name]):
                runs.add(batch)
        if mixing.is_mixed([source for source, _ in sources], rows):
            limit, left_out = mixing.limits([s for s, _ in sources], shares_of(runs, list(tallies)), rows)
            for name, reasons in left_out.items():
                tallies[name].reasons.update(reasons)
        found = [row for group in row_groups(rows_by_id(runs, limit)) for row in group.to_pylist()]
    for name, count in Counter(row["source"] for row in found).items():
        tallies[name].reasons["taken"] = count
    return found, tallies


def source_rows(
    source: Source, files: list[File], drop: bool = False
) -> tuple[list[dict[str, Any]], Counter[str]]:
    rows, tallies = mixed([(source, files)], drop=drop)
    return rows, tallies[source.name].reasons
