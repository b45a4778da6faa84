"""Find the step with the lowest validation loss, and how long ago the last improvement was."""

from collections.abc import Sequence

from stages.common.curve import CurveRow


def evaluated_steps(rows: Sequence[CurveRow]) -> list[tuple[int, float]]:
    """Return step and validation loss of each evaluation, the untrained model's (step 0) left out."""
    return [(row.step, row.validation_loss) for row in rows if row.step and row.validation_loss is not None]


def best_step(rows: Sequence[CurveRow]) -> int | None:
    """Return the step of the lowest validation loss, the first of equals; None where none was measured."""
    evaluated = evaluated_steps(rows)
    return min(evaluated, key=lambda step_and_loss: step_and_loss[1])[0] if evaluated else None


def evaluations_since_improvement(rows: Sequence[CurveRow], min_delta: float) -> int:
    """Count the evaluations since the last improvement.

    An improvement is lower than the previous improvement by more than `min_delta`; a slow fall counts once it has
    added up to that.
    """
    lowest, passed = float("inf"), 0
    for _, loss in evaluated_steps(rows):
        if loss < lowest - min_delta:
            lowest, passed = loss, 0
        else:
            passed += 1
    return passed
