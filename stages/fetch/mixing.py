"""Decide how many rows to take of each source."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from stages.fetch.settings import Source

BY_MAX_ROWS, BY_ROWS = "left out by max_rows", "left out by rows"


def mix(
    sources: Sequence[Source], given: Mapping[str, int], rows: int
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Return how many rows to take of each source, and how many are left out, by reason.

    Args:
        given: number of rows of each source.
        rows: total number of rows, divided among the sources by weight; 0: as many as there are.
    """
    available = {s.name: min(given[s.name], s.max_rows or given[s.name]) for s in sources}
    taken = allot_rows(available, {s.name: s.weight for s in sources}, rows) if rows else available
    left_out = {
        name: {BY_MAX_ROWS: given[name] - available[name], BY_ROWS: available[name] - taken[name]}
        for name in given
    }
    return taken, {name: {why: n for why, n in counts.items() if n} for name, counts in left_out.items()}


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
