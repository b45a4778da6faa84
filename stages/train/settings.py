"""Settings of the train stage."""

from dataclasses import dataclass, field
from typing import Any

from stages.common.sections import require


@dataclass
class Lora:
    rank: int = 16  # rank of the update
    alpha: int = 32  # the update is scaled by alpha / rank
    dropout: float = 0.0  # on the adapter's input, 0 to below 1
    target_modules: Any = "all-linear"  # all-linear, or a list of module names

    def __post_init__(self) -> None:
        require(self.rank >= 1, "train.lora.rank", self.rank, "at least 1")


@dataclass
class TrainSettings:
    lora: Lora = field(default_factory=Lora)
    quantization: str = "nf4"  # nf4 (double quantization) | none
    dtype: str = "bfloat16"  # compute type: bfloat16 | float32
    learning_rate: float = 4e-4  # peak
    epochs: float = 2.0  # passes over the training packs
    seed: int = 0  # adapter initialisation, dropout, order of packs
