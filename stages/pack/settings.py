"""Settings of the pack stage."""

from dataclasses import dataclass

from stages.common.settings import require

OVERLONG = ("drop", "truncate", "split", "fail")


@dataclass
class PackSettings:
    max_length: int = 1024  # tokens a pack, at least 8 and at most the model's context
    # A row of more than max_length tokens: drop (counted) | truncate (the prompt loses its beginning, the last answer is
    # whole; dropped where that is not enough) | split (into documents of equal length, each without the ones before) |
    # fail (names the row).
    overlong: str = "drop"
    max_documents: int = 0  # documents a pack holds at most; 0: any number
    # Documents that are packed together, in the order of the rows; 0: all. Memory is about 70 bytes a row of these; from
    # some 10,000 on, packs are as full as those of all rows together.
    shard_rows: int = 0
    validation_share: float = 0.05  # share of rows held out, by duplicate component, 0 to below 1
    seed: int = 0  # of the validation split

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
