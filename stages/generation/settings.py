"""Settings of generation: how a model completes prompts."""

from dataclasses import dataclass
from typing import ClassVar

from stages.common.core.settings import require

ENDINGS = ("auto", "body", "program", "fence", "answer", "none")
CHOICES = {
    "backend": ("transformers", "vllm"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "ending": ENDINGS,
}


@dataclass
class GenerationSettings:
    """The generator's part of a section."""

    # Of the configuration, for messages
    section: ClassVar[str] = "evaluate"

    # Of sampling
    seed: int = 0
    # 0: greedy
    temperature: float = 0.0
    # transformers | vllm (needs a GPU, and `pip install '.[vllm]'`)
    backend: str = "transformers"
    # Tokens per completion, at most
    max_new_tokens: int = 256
    # What ends an answer besides an end token: auto (by the prompt and its style) | body (of a function, in bare
    # code) | program (bare code) | fence (code, in a fence that the prompt opened) | answer (prose with a fenced
    # block) | none
    ending: str = "auto"
    # Rows generated at once, over all cores, at most: fewer where they would exceed memory_gib
    batch_size: int = 128
    # GiB that the keys and values of all rows may take, beside the weights; 0: a fifth of the memory that is free,
    # or 70% of a GPU's
    memory_gib: float = 0.0
    # Of the model while it generates: auto | bfloat16 | float16 (GPU) | float32. auto: bfloat16 on a GPU, float16 on one
    # without it; float32 on a CPU, where the layout of batches then changes no answer
    dtype: str = "auto"

    def check_generation(self) -> None:
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            require(value in choices, f"{self.section}.{key}", value, "one of " + ", ".join(choices))
        for key in ("max_new_tokens", "batch_size"):
            require(getattr(self, key) >= 1, f"{self.section}.{key}", getattr(self, key), "at least 1")
        require(self.temperature >= 0, f"{self.section}.temperature", self.temperature, "0 (greedy) or more")
        require(
            self.memory_gib >= 0,
            f"{self.section}.memory_gib",
            self.memory_gib,
            "GiB above 0, or 0 for a share",
        )
