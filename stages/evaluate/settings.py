"""Settings of the evaluate stage."""

from dataclasses import dataclass, field

from stages.common.core.settings import require
from stages.generation.settings import GenerationSettings
from stages.judge.settings import JudgeSettings

TARGETS = ("base", "tuned")


@dataclass
class EvaluateSettings(JudgeSettings, GenerationSettings):
    # Which model: base (models/base) | tuned (models/merged); dvc.yaml sets it
    target: str = "tuned"
    # A file of data/benchmarks, without suffix
    benchmark: str = "humaneval"
    # Completions per problem, n; more than one need a temperature
    samples: int = 1
    # Each k of pass@k besides 1; at most `samples`
    pass_at: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_generation()
        require(self.target in TARGETS, "evaluate.target", self.target, "one of " + ", ".join(TARGETS))
        require(self.samples >= 1, "evaluate.samples", self.samples, "at least 1")
        for k in self.pass_at:
            fits = f"numbers from 1 to evaluate.samples ({self.samples}): pass@k needs k samples per problem"
            require(1 <= k <= self.samples, "evaluate.pass_at", self.pass_at, fits)
        above = f"above 0 where evaluate.samples is {self.samples}: greedy samples are identical"
        hot = self.samples == 1 or self.temperature > 0
        require(hot, "evaluate.temperature", self.temperature, above)
