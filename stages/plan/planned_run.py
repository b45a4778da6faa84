"""A run that has not been made yet, in figures; the advice and the table are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.plan.data_estimate import TrainingData
from stages.plan.device import Hardware

# Standard deviations between rows, in nats per token: of a row's mean loss (SPREAD), and of its change
# (CHANGE) when the mean changes by DIFFERENCE, as evaluations late in a run do. Measured on this project's 56
# validation rows by `python -m benchmarks.plan spread`: 0.023 at a change of 0.007, 0.033 at 0.017.
SPREAD, CHANGE, DIFFERENCE = 0.48, 0.026, 0.01
GATE, EVALUATE = "merge's gate", "evaluate"


@dataclass(frozen=True)
class PlannedRun:
    """What a training will take; `python -m stages.plan` prints it."""

    # the composed configuration, by section
    sections: Mapping[str, Any]
    # where the shapes of the base are from, in words
    shape: str
    # of the base, in tokens; 0: unknown
    context: int
    # why it is not known, where it is not
    data: TrainingData | str
    machine: Hardware
    # optimizer steps, and those of the warmup; 0 where the data is not known
    steps: int
    warmup_steps: int
    # passes over the data, limits of tokens and steps considered
    epochs: float
    # tokens trained on, in all epochs
    tokens: int
    # bytes of each part: of memory at training's peak, of disk
    memory: dict[str, int]
    disk: dict[str, int]
    # bytes that training must find free, without and with gradient checkpointing
    plain: int
    checkpointed: int
    # bytes that later stages must find free
    later: dict[str, int]
    # operations per second of the device's products; the share of it that training reaches, and where that is
    # from
    rate: float
    share: float
    share_basis: str
    # which gain the benchmarks can show, in words
    power: str
    # useful operations per token
    operations: float
    # of a million tokens where the data is not known
    seconds: float

    @property
    def train(self) -> Any:
        return self.sections["train"]

    @property
    def max_length(self) -> int:
        return self.sections["pack"].max_length

    @property
    def needed(self) -> int:
        """Bytes that training as configured must find free."""
        return self.checkpointed if self.train.gradient_checkpointing else self.plain

    @property
    def packs_per_step(self) -> int:
        return self.train.micro_batch * self.train.accumulation

    @property
    def warmup_share(self) -> float:
        return self.warmup_steps / max(1, self.steps)

    @property
    def scale(self) -> float:
        """Factor of the LoRA update."""
        lora = self.train.lora
        return lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)


def standard_error(deviation: float, rows: int) -> float:
    """Return the standard error of a mean over this many rows; infinite without rows."""
    return deviation / rows**0.5 if rows else float("inf")


def utilisation(data: TrainingData, max_length: int) -> float:
    """Return the tokens of the training packs over their capacity."""
    return data.tokens / (len(data.pack_tokens) * max_length)
