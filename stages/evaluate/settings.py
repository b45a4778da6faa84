"""Settings of the evaluate stage."""

from dataclasses import dataclass

from stages.common.sections import require

TARGETS = ("base", "tuned")


@dataclass
class EvaluateSettings:
    target: str = "tuned"  # which model: base (models/base) | tuned (models/merged); dvc.yaml sets it
    benchmark: str = "humaneval"  # a file of data/benchmarks, without suffix
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 256  # tokens a completion at most
    seed: int = 0  # of sampling

    def __post_init__(self) -> None:
        require(self.target in TARGETS, "evaluate.target", self.target, "one of " + ", ".join(TARGETS))
        require(self.temperature >= 0, "evaluate.temperature", self.temperature, "0 (greedy) or more")
