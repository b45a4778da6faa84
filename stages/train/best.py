"""What validation losses say: which step had the lowest, and since when none was an improvement."""

from collections.abc import Sequence

from stages.common.curve import CurveRow


def evaluated_steps(rows: Sequence[CurveRow]) -> list[tuple[int, float]]:
    """Step and validation loss of each evaluation after a step; that of the untrained model is not among them."""
    return [(row.step, row.validation_loss) for row in rows if row.step and row.validation_loss is not None]


def best_step(rows: Sequence[CurveRow]) -> int | None:
    """The step of the lowest validation loss, the first of equals; None where none was measured."""
    found = evaluated_steps(rows)
    return min(found, key=lambda one: one[1])[0] if found else None


def evaluations_since_improvement(rows: Sequence[CurveRow], min_delta: float) -> int:
    """How many evaluations have passed since the last improvement.

    An improvement is lower than the improvement before it by more than `min_delta`; a slow fall counts once it has
    added up to that.
    """
    lowest, passed = float("inf"), 0
    for _, loss in evaluated_steps(rows):
        if loss < lowest - min_delta:
            lowest, passed = loss, 0
        else:
            passed += 1
    return passed
