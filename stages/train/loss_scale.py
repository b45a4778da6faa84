"""The factor on the loss of a training in float16, without which small gradients would round to zero.

A gradient that overflows lowers the factor, and the step is computed again: no pack is left out, and the learning
rate keeps its schedule. Factors are powers of two, so that dividing by them is exact.
"""

from dataclasses import dataclass

FIRST, RAISED_AFTER = 2.0**16, 1000


@dataclass
class LossScale:
    # 1 in every dtype but float16
    value: float = 1.0
    # since it was last changed
    steps: int = 0

    @classmethod
    def of(cls, dtype: str) -> "LossScale":
        return cls(FIRST if dtype == "float16" else 1.0)

    def lower(self) -> bool:
        """Halve the factor after an overflow; return whether that was possible."""
        if self.value <= 1:
            return False
        self.value, self.steps = self.value / 2, 0
        return True

    def count_step(self) -> None:
        """Count a step without an overflow; double the factor after RAISED_AFTER of them."""
        self.steps += 1
        if self.value > 1 and self.steps >= RAISED_AFTER:
            self.value, self.steps = self.value * 2, 0
