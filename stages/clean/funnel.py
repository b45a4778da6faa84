"""The funnel: rows in, rows dropped by each rule, rows kept. It raises if the counts do not add up."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.common.core.errors import UserError


class Funnel:
    """Counts rows batch by batch, by source and outcome."""

    def __init__(self, rules: Sequence[str]) -> None:
        self.rules = list(rules)
        self.by_source: dict[str, np.ndarray] = {}  # int64 [1 + rules]: kept, then dropped by each rule
        self.written = 0

    def add(self, sources: Sequence[str], codes: np.ndarray, dropped_by: np.ndarray) -> None:
        """Count the rows of a batch.

        Args:
            sources: names of sources.
            codes: int [n], index of each row's source in `sources`.
            dropped_by: int [n], index of the rule that dropped the row, -1 for a kept row.

        Raises:
            RuntimeError: an index is out of range, or the arrays differ in length.
        """
        width = len(self.rules) + 1
        rows = len(dropped_by)
        if len(codes) != rows or (rows and not -1 <= dropped_by.min() <= dropped_by.max() < width - 1):
            raise RuntimeError(
                f"the funnel does not add up: a row was dropped by a rule that is not one of {self.rules}"
            )
        table = np.bincount(codes.astype(np.int64) * width + dropped_by + 1, minlength=len(sources) * width)
        for source, counts in zip(sources, table.reshape(-1, width), strict=True):
            self.by_source[source] = self.by_source.get(source, np.zeros(width, np.int64)) + counts

    def write(self, rows: int) -> None:
        """Count `rows` as written, whether kept or dropped."""
        self.written += rows

    def counts(self, rows_in: int) -> dict[str, Any]:
        """Return rows in, kept, and dropped by each rule, in total and by source.

        Raises:
            RuntimeError: a row was lost or counted twice.
        """
        total = sum(self.by_source.values(), np.zeros(len(self.rules) + 1, np.int64))
        if not rows_in == total.sum() == self.written:
            raise RuntimeError(
                f"the funnel does not add up: {rows_in} rows in, {total[0]} kept, dropped "
                f"{dict(zip(self.rules, total[1:].tolist(), strict=True))}, {self.written} written"
            )
        return {
            "rows_in": rows_in,
            "rows_kept": int(total[0]),
            "dropped": dict(zip(self.rules, total[1:].tolist(), strict=True)),
            "by_source": {
                source: {
                    "rows_in": int(counts.sum()),
                    "kept": int(counts[0]),
                    **dict(zip(self.rules, counts[1:].tolist(), strict=True)),
                }
                for source, counts in sorted(self.by_source.items())
            },
        }


def require_kept_rows(counts: dict[str, Any]) -> None:
    """Reject an empty result.

    Raises:
        UserError: no row is left; names the rule that dropped the most.
    """
    if not counts["rows_kept"]:
        dropped = counts["dropped"]
        strictest = max(dropped, key=lambda rule: dropped[rule])
        hint = " Questions with answers take clean=instruct, and prompt=alpaca or chat."
        raise UserError(
            f"clean dropped all {counts['rows_in']} rows of data/raw/rows.parquet, {dropped[strictest]} of them "
            f"by the rule '{strictest}'. Relax its threshold in conf/clean, or remove the rule from clean.rules or "
            f"clean.duplicates.{hint if strictest in ('parse', 'length', 'language', 'docstring') else ''}"
        )


def funnel_table(counts: dict[str, Any]) -> str:
    """Return the funnel as lines for the terminal, without rules that dropped nothing."""
    lines = [f"{counts['rows_in']:>8} rows in"]
    lines += [f"{-count:>8} {rule}" for rule, count in counts["dropped"].items() if count]
    return "\n".join([*lines, f"{counts['rows_kept']:>8} rows kept"])
