"""Settings of the pack stage."""

from dataclasses import dataclass

from stages.common.sections import require

OVERLONG = ("drop", "fail")


@dataclass
class PackSettings:
    max_length: int = 1024  # tokens a pack, at least 8 and at most the model's context
    overlong: str = "drop"  # a row of more than max_length tokens: drop (counted) | fail (names the row)
    validation_share: float = 0.05  # share of rows held out, by duplicate component, 0 to below 1
    seed: int = 0  # of the validation split

    def __post_init__(self) -> None:
        require(self.max_length >= 8, "pack.max_length", self.max_length, "at least 8 tokens")
        require(self.overlong in OVERLONG, "pack.overlong", self.overlong, "one of " + ", ".join(OVERLONG))
        require(
            0 <= self.validation_share < 1,
            "pack.validation_share",
            self.validation_share,
            "a number in [0, 1)",
        )
