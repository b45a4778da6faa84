"""The plan of a training: all that is told of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.plan.data_estimate import Data
    from stages.plan.device import Machine
    from stages.plan.quantities import Facts


@dataclass(frozen=True)
class Plan:
    """All that is told."""

    base: str
    shape: str  # where its shapes are from
    data: "Data"
    facts: "Facts"
    memory: dict[str, int]  # bytes of each part at the peak
    disk: dict[str, int]  # bytes of each part
    machine: "Machine"
    rate: float  # of the device's products, operations a second
    share: float  # of it that training is taken to reach
    share_said: str
    operations: float  # useful, a token
    tokens: int  # that are trained on, all epochs
    seconds: float
    warnings: dict[str, str]
