"""The funnel: how many rows came in, were dropped by which rule, and were kept. It adds up or it raises."""

from collections import Counter
from typing import Any

from stages.clean.screen import Drop
from stages.common.errors import UserError


def funnel(sources: list[str], drops: dict[int, Drop], kept: list[int], rules: list[str]) -> dict[str, Any]:
    """Rows in, kept and dropped, for each rule and for each source; zero where a rule dropped none.

    Args:
        sources: source of each row that came in.
        drops: by row number.
        kept: numbers of the rows that are written.
        rules: all configured rules, in order.

    Raises:
        RuntimeError: a row was lost, counted twice, or dropped by a rule that is not configured.
    """
    dropped = Counter(drop.rule for drop in drops.values())
    if sorted([*drops, *kept]) != list(range(len(sources))) or not set(dropped) <= set(rules):
        raise RuntimeError(
            f"the funnel does not add up: {len(sources)} rows in, {len(kept)} kept, dropped {dict(dropped)}"
        )
    rows_in = Counter(sources)
    by_rule = Counter((sources[number], drop.rule) for number, drop in drops.items())
    kept_of = Counter(sources[number] for number in kept)
    return {
        "rows_in": len(sources),
        "rows_kept": len(kept),
        "dropped": {rule: dropped[rule] for rule in rules},
        "by_source": {
            source: {
                "rows_in": rows_in[source],
                "kept": kept_of[source],
                **{rule: by_rule[source, rule] for rule in rules},
            }
            for source in sorted(rows_in)
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
