"""Settings of the pack stage."""

from dataclasses import dataclass

from stages.common.sections import require


@dataclass
class PackSettings:
    max_length: int = 1024  # tokens a pack; a longer row is dropped and counted
    validation_share: float = 0.05  # share of rows held out, by duplicate component, 0 to below 1
    seed: int = 0  # of the validation split

    def __post_init__(self) -> None:
        require(self.max_length >= 8, "pack.max_length", self.max_length, "at least 8 tokens")
        require(
            0 <= self.validation_share < 1,
            "pack.validation_share",
            self.validation_share,
            "a number in [0, 1)",
        )
