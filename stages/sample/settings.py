"""Settings of the sample stage."""

from dataclasses import dataclass, field
from typing import ClassVar

from stages.clean.settings import Validation
from stages.common.core.settings import require
from stages.generation.settings import GenerationSettings


@dataclass
class SampleSettings(GenerationSettings):
    section: ClassVar[str] = "sample"

    # Completions per row, k; 0: the stage is off
    samples: int = 0
    # Passing completions that are kept of a row, at most, each with a syntax tree of its own
    keep: int = 4
    # Folder of the model that draws: models/base, or a copy of a merged model
    model: str = "models/base"
    # 0: greedy, for one sample a row
    temperature: float = 0.8
    # How completions run with the tests and doctests of their row
    validation: Validation = field(default_factory=Validation)
    # Set by the config stage, not by users: sha256 of the code that draws and judges, where it does ("" if not)
    code: str = ""

    def __post_init__(self) -> None:
        self.check_generation()
        require(self.samples >= 0, "sample.samples", self.samples, "completions per row, or 0 (off)")
        require(self.keep >= 1, "sample.keep", self.keep, "at least 1")
        hot = self.samples <= 1 or self.temperature > 0
        above = f"above 0 where sample.samples is {self.samples}: greedy samples are identical"
        require(hot, "sample.temperature", self.temperature, above)
