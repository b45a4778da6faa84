"""Settings of the evaluate stage."""

from dataclasses import dataclass, field

from stages.common.core.settings import require
from stages.judge.settings import JudgeSettings

CHOICES = {
    "target": ("base", "tuned"),
    "backend": ("transformers", "vllm"),
    "dtype": ("auto", "bfloat16", "float32"),
}


@dataclass
class EvaluateSettings(JudgeSettings):
    # Which model: base (models/base) | tuned (models/merged); dvc.yaml sets it
    target: str = "tuned"
    # A file of data/benchmarks, without suffix
    benchmark: str = "humaneval"
    # Completions per problem, n; more than one need a temperature
    samples: int = 1
    # Each k of pass@k besides 1; at most `samples`
    pass_at: list[int] = field(default_factory=lambda: [1])
    # 0: greedy
    temperature: float = 0.0
    # transformers | vllm (needs a GPU, and `pip install '.[vllm]'`)
    backend: str = "transformers"
    # Tokens per completion, at most
    max_new_tokens: int = 256
    # Rows generated at once, over all cores, at most: fewer where they would exceed memory_gib
    batch_size: int = 128
    # GiB that the keys and values of all rows may take, beside the weights; 0: a fifth of the memory that is free,
    # or 70% of a GPU's
    memory_gib: float = 0.0
    # Of the model while it generates: auto | bfloat16 | float32. auto: bfloat16 on a GPU; float32 on a CPU,
    # where the layout of batches then changes no answer
    dtype: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            require(value in choices, f"evaluate.{key}", value, "one of " + ", ".join(choices))
        for key in ("samples", "max_new_tokens", "batch_size"):
            require(getattr(self, key) >= 1, f"evaluate.{key}", getattr(self, key), "at least 1")
        for k in self.pass_at:
            fits = f"numbers from 1 to evaluate.samples ({self.samples}): pass@k needs k samples per problem"
            require(1 <= k <= self.samples, "evaluate.pass_at", self.pass_at, fits)
        above = f"above 0 where evaluate.samples is {self.samples}: greedy samples are identical"
        require(self.temperature >= 0, "evaluate.temperature", self.temperature, "0 (greedy) or more")
        hot = self.samples == 1 or self.temperature > 0
        require(hot, "evaluate.temperature", self.temperature, above)
        require(self.memory_gib >= 0, "evaluate.memory_gib", self.memory_gib, "GiB above 0, or 0 for a share")
