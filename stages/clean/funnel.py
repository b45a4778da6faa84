"""The funnel: rows in, rows dropped by each rule, rows kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stages.common.core.errors import UserError


def funnel_counts(
    rules: Sequence[str], dropped_by: np.ndarray, sources: pa.DictionaryArray
) -> dict[str, Any]:
    """Return rows in, kept, and dropped by each rule, in total and by source.

    Args:
        rules: every rule that may drop a row.
        dropped_by: int [n], index of the rule that dropped the row, -1 for a kept row.
        sources: the name of each row's source.

    Raises:
        RuntimeError: a row was dropped by a rule that is not one of `rules`.
    """
    names = ["kept", *rules]
    if not -1 <= dropped_by.min() <= dropped_by.max() < len(rules):
        raise RuntimeError(
            f"the funnel does not add up: a row was dropped by a rule that is not one of {rules}"
        )
    codes = sources.indices.to_numpy().astype(np.int64) * len(names) + dropped_by + 1
    table = np.bincount(codes, minlength=len(sources.dictionary) * len(names)).reshape(-1, len(names))
    kept, *dropped = table.sum(axis=0).tolist()
    by_source = sorted(zip(sources.dictionary.to_pylist(), table.tolist(), strict=True))
    return {
        "rows_in": len(dropped_by),
        "rows_kept": kept,
        "dropped": dict(zip(rules, dropped, strict=True)),
        "by_source": {
            source: {"rows_in": sum(counts), **dict(zip(names, counts, strict=True))}
            for source, counts in by_source
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
