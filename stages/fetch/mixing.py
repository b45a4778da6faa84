"""Decide how many rows to take of each source, and which: those with the lowest hashes of their ids."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from stages.fetch.settings import Source

if TYPE_CHECKING:
    import pyarrow as pa

BY_MAX_ROWS, BY_ROWS = "left out by max_rows", "left out by rows"


def sampling_key(row_id: str) -> int:
    """Return a row's sampling key, a hash of its id: uniform over [0, 2**64)."""
    return int(hashlib.sha256(f"weight {row_id}".encode()).hexdigest()[:16], 16)


def sampling_keys(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(sampling_key, ids), np.uint64, len(ids))


def is_mixed(sources: Iterable[Source], rows: int) -> bool:
    """Whether any row may be left out."""
    return rows > 0 or any(source.max_rows for source in sources)


def sampling_limits(
    sources: Sequence[Source], keys: Mapping[str, np.ndarray], rows: int
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Return the first sampling key of each source that is left out, and how many rows are, by reason.

    A source that is taken whole is not among them.

    Args:
        keys: sampling keys of all rows of each source (uint64), in any order.
        rows: total number of rows, divided among the sources by weight; 0: as many as there are.
    """
    available = {s.name: min(len(keys[s.name]), s.max_rows or len(keys[s.name])) for s in sources}
    taken = allot_rows(available, {s.name: s.weight for s in sources}, rows) if rows else available
    limits, reasons = {}, {}
    for name, count in taken.items():
        left_out = {BY_MAX_ROWS: len(keys[name]) - available[name], BY_ROWS: available[name] - count}
        reasons[name] = {reason: number for reason, number in left_out.items() if number}
        if count < len(keys[name]):
            limits[name] = int(np.partition(keys[name], count)[count])
    return limits, reasons


def allot_rows(available: Mapping[str, int], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Divide `total` among the sources by weight; the others make up by weight for what a source lacks.

    Fractions of rows go to the largest remainders (Hamilton's method), ties to the first name.
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
            remainder = left - sum(int(value) for value in exact.values())
            for name in sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))[:remainder]:
                taken[name] += 1
            break
        for name in short:
            taken[name] = available[name]
            left -= available[name]
            del waiting[name]
    return taken


def select_rows(table: "pa.Table", limits: Mapping[str, int]) -> "pa.Table":
    """Return the rows of a table whose sampling keys are below their sources' limits."""
    import pyarrow as pa

    names = table["source"].to_pylist()
    keys = sampling_keys(table["id"].to_pylist())
    row_limits = np.array([limits.get(name, 0) for name in names], np.uint64)
    whole = np.array([name not in limits for name in names], bool)
    return table.filter(pa.array(whole | (keys < row_limits)))
