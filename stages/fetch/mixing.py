"""How many rows of each source are taken, and which: those whose ids' sums are the lowest, whatever their order."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from stages.fetch.settings import Source

if TYPE_CHECKING:
    import pyarrow as pa

ALL = 2**64  # above every share
WEIGHT, MAX_ROWS, ROWS = "left out by weight", "left out by max_rows", "left out by rows"


def share(row_id: str) -> int:
    """A row's place in [0, 2**64), evenly spread over ids."""
    return int(hashlib.sha256(f"weight {row_id}".encode()).hexdigest()[:16], 16)


def shares(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(share, ids), np.uint64, len(ids))


def is_mixed(sources: Iterable[Source], rows: int) -> bool:
    """Whether any row is left out."""
    return rows > 0 or any(source.weight < 1 or source.max_rows for source in sources)


def limits(
    sources: Sequence[Source], places: Mapping[str, np.ndarray], rows: int
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Of each source the limit below which a row's share must be, and how many rows are left out, by reason.

    Args:
        places: shares of all rows of each source (uint64), in any order.
        rows: how many are wanted in all, in parts by weight; 0: each source gives its weight's share of its rows.
    """
    limit, reasons = {}, {}
    available: dict[str, int] = {}
    for source in sources:
        values = places[source.name]
        limit[source.name] = ALL if rows or source.weight >= 1 else int(source.weight * ALL)
        kept = below(values, limit[source.name])
        most = min(kept, source.max_rows or kept)
        reasons[source.name] = {WEIGHT: len(values) - kept, MAX_ROWS: kept - most}
        available[source.name] = most
    wanted = allotted(available, {s.name: s.weight for s in sources}, rows) if rows else available
    for source in sources:
        values, count = places[source.name], wanted[source.name]
        reasons[source.name][ROWS] = available[source.name] - count
        if count < below(values, limit[source.name]):
            limit[source.name] = int(np.partition(values, count)[count])
    return limit, {name: {why: n for why, n in left.items() if n} for name, left in reasons.items()}


def below(values: np.ndarray, limit: int) -> int:
    return len(values) if limit >= ALL else int(np.count_nonzero(values < np.uint64(limit)))


def allotted(available: Mapping[str, int], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Rows of each source: parts of `total` by weight; what one is short of, the others give by theirs.

    Parts of rows go to the largest remainders (Hamilton's method), of equal ones to the first name.
    """
    left = min(total, sum(available.values()))
    taken = dict.fromkeys(available, 0)
    waiting = {name: Fraction(weights[name]) for name in sorted(available)}
    while waiting:
        part = left / sum(waiting.values())
        short = [name for name, weight in waiting.items() if available[name] <= part * weight]
        if not short:
            exact = {name: part * weight for name, weight in waiting.items()}
            taken |= {name: int(value) for name, value in exact.items()}
            missing = left - sum(int(value) for value in exact.values())
            for name in sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))[:missing]:
                taken[name] += 1
            break
        for name in short:
            taken[name] = available[name]
            left -= available[name]
            del waiting[name]
    return taken


def chosen(table: "pa.Table", limit: Mapping[str, int]) -> "pa.Table":
    """The rows of a table whose shares are below their sources' limits."""
    import pyarrow as pa

    names = table["source"].to_pylist()
    places = shares(table["id"].to_pylist())
    least = np.array([min(limit[name], ALL - 1) for name in names], np.uint64)
    whole = np.array([limit[name] >= ALL for name in names], bool)
    return table.filter(pa.array(whole | (places < least)))
