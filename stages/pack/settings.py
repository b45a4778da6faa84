"""Settings of the pack stage."""

from dataclasses import dataclass

from stages.common.core.settings import require

OVERLONG = ("drop", "truncate", "split", "fail")


@dataclass
class PackSettings:
    # tokens per pack, at least 8 and at most the model's context
    max_length: int = 1024
    # what to do with a row of more than max_length tokens: drop (and count it) | truncate (a chat to its last
    # exchanges, running text at its beginning; answers stay whole, a row with a longer one is dropped) | split
    # (a chat between exchanges, running text into equal parts; no part sees the ones before) | fail (name it)
    overlong: str = "drop"
    # most documents per pack; 0: any number
    max_documents: int = 0
    # share of rows that may be dropped for another reason than their length, 0 to 1: more is an error, and a
    # tenth of the rows a warning
    max_dropped_share: float = 0.5
    # share of rows to hold out, by duplicate component, 0 to below 1
    validation_share: float = 0.05
    # how many times an epoch a training row appears whose tests or doctests passed (clean.validate), 1 or more
    validated_copies: int = 1
    # of the validation split
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.max_length >= 8, "pack.max_length", self.max_length, "at least 8 tokens")
        require(self.overlong in OVERLONG, "pack.overlong", self.overlong, "one of " + ", ".join(OVERLONG))
        copies = self.validated_copies
        require(copies >= 1, "pack.validated_copies", copies, "1 (as often as other rows) or more")
        require(self.max_documents >= 0, "pack.max_documents", self.max_documents, "0 or more")
        require(
            0 <= self.max_dropped_share <= 1,
            "pack.max_dropped_share",
            self.max_dropped_share,
            "a number in [0, 1]",
        )
        require(
            0 <= self.validation_share < 1,
            "pack.validation_share",
            self.validation_share,
            "a number in [0, 1)",
        )
