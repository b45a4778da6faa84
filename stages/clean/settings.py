"""Settings of the clean stage."""

from dataclasses import dataclass, field

from stages.common.sections import require


@dataclass
class NearDuplicates:
    enabled: bool = True
    permutations: int = 256  # MinHash values a row
    shingle_words: int = 5  # words a shingle
    threshold: float = 0.7  # Jaccard similarity from which two rows are duplicates, 0 to 1

    def __post_init__(self) -> None:
        require(
            0 < self.threshold <= 1, "clean.near_duplicates.threshold", self.threshold, "a number in (0, 1]"
        )


@dataclass
class CleanSettings:
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
