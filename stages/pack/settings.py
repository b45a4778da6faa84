"""Settings of the pack stage."""

from dataclasses import dataclass

from stages.common.settings import require

OVERLONG = ("drop", "truncate", "split", "fail")


@dataclass
class PackSettings:
    # tokens per pack, at least 8 and at most the model's context
    max_length: int = 1024
    # what to do with a row of more than max_length tokens: drop (and count it) | truncate (cut the beginning
    # of the prompt and keep the last answer whole; drop the row if that is not enough) | split (into
    # documents of equal length, none of which sees the ones before) | fail (and name the row)
    overlong: str = "drop"
    # most documents per pack; 0: any number
    max_documents: int = 0
    # documents that are packed together, in the order of the rows; 0: all. Memory is about 70 bytes per row
    # of a shard; from about 10,000 rows, packs are as full as when all rows are packed together
    shard_rows: int = 0
    # share of rows to hold out, by duplicate component, 0 to below 1
    validation_share: float = 0.05
    # of the validation split
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.max_length >= 8, "pack.max_length", self.max_length, "at least 8 tokens")
        require(self.overlong in OVERLONG, "pack.overlong", self.overlong, "one of " + ", ".join(OVERLONG))
        require(self.max_documents >= 0, "pack.max_documents", self.max_documents, "0 or more")
        require(self.shard_rows >= 0, "pack.shard_rows", self.shard_rows, "0 or more")
        require(
            0 <= self.validation_share < 1,
            "pack.validation_share",
            self.validation_share,
            "a number in [0, 1)",
        )
