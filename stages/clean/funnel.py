"""The funnel: how many rows came in, were dropped by which rule, and were kept. It adds up or it raises."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.common.errors import UserError


class Funnel:
    """Counts rows batch by batch, by source and by what became of them."""

    def __init__(self, rules: Sequence[str]) -> None:
        self.rules = list(rules)
        self.by_source: dict[str, np.ndarray] = {}  # int64 [1 + rules]: kept, then dropped by each rule
        self.written = 0

    def add(self, sources: Sequence[str], codes: np.ndarray, rules: np.ndarray) -> None:
        """Count some rows.

        Args:
            sources: names of sources.
            codes: int [n], place of each row's source in `sources`.
            rules: int [n], place in the rules of the one that dropped the row, -1 for a kept row.

        Raises:
            RuntimeError: a rule that is not configured.
        """
        width = len(self.rules) + 1
        if len(codes) != len(rules) or (len(rules) and not -1 <= rules.min() <= rules.max() < width - 1):
            raise RuntimeError(
                f"the funnel does not add up: rows dropped by a rule that is none of {self.rules}"
            )
        table = np.bincount(codes.astype(np.int64) * width + rules + 1, minlength=len(sources) * width)
        for source, counts in zip(sources, table.reshape(-1, width), strict=True):
            self.by_source[source] = self.by_source.get(source, np.zeros(width, np.int64)) + counts

    def write(self, rows: int) -> None:
        """Note that rows were written, kept or dropped."""
        self.written += rows

    def counts(self, rows_in: int) -> dict[str, Any]:
        """Rows in, kept and dropped, for each rule and for each source; zero where a rule dropped none.

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


def require_rows(counts: dict[str, Any]) -> None:
    """Refuse an empty result.

    Raises:
        UserError: no row is left; names the rule that dropped most.
    """
    if not counts["rows_kept"]:
        dropped = counts["dropped"]
        worst = max(dropped, key=lambda rule: dropped[rule])
        raise UserError(
            f"clean dropped all {counts['rows_in']} rows of data/raw/rows.parquet, {dropped[worst]} of them by the "
            f"rule '{worst}'. Relax its threshold in conf/clean or take the rule out of clean.rules or clean.duplicates."
        )


def table_of(counts: dict[str, Any]) -> str:
    """The funnel as lines for the terminal; rules that dropped nothing are left out."""
    lines = [f"{counts['rows_in']:>8} rows in"]
    lines += [f"{-count:>8} {rule}" for rule, count in counts["dropped"].items() if count]
    return "\n".join([*lines, f"{counts['rows_kept']:>8} rows kept"])
