"""The plan of a training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.plan.data_estimate import TrainingData
    from stages.plan.device import Hardware
    from stages.plan.quantities import RunFacts


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will take; `python -m stages.plan` prints it."""

    # name of the base model, and where its shapes are from
    base: str
    shape: str
    data: "TrainingData"
    facts: "RunFacts"
    # bytes of each part: of memory at the peak, of disk
    memory: dict[str, int]
    disk: dict[str, int]
    machine: "Hardware"
    # operations per second of the device's products; the share of it that training reaches, and where that is
    # from
    rate: float
    share: float
    share_basis: str
    # useful operations per token
    operations: float
    # tokens trained on, in all epochs
    tokens: int
    seconds: float
    # text by name
    warnings: dict[str, str]
