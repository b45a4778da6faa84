"""Settings of the train stage."""

from dataclasses import dataclass, field
from typing import Any

from stages.common.sections import require

QUANTIZATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float32")
OPTIMIZERS = ("adamw",)
SCHEDULES = ("cosine", "linear", "constant")


@dataclass
class Lora:
    rank: int = 16  # rank of the update, 1 or more
    alpha: int = 32  # the update is scaled by alpha / rank (rslora: alpha / sqrt(rank)), 1 or more
    dropout: float = 0.0  # share of the adapter's input that is dropped, 0 to below 1
    target_modules: Any = (
        "all-linear"  # all-linear (every linear layer but the head), or a list of module names
    )
    rslora: bool = False  # scale by alpha / sqrt(rank), for high ranks (arXiv:2312.03732)

    def __post_init__(self) -> None:
        require(self.rank >= 1, "train.lora.rank", self.rank, "at least 1")
        require(self.alpha >= 1, "train.lora.alpha", self.alpha, "at least 1")
        require(0 <= self.dropout < 1, "train.lora.dropout", self.dropout, "a number in [0, 1)")
        names = self.target_modules
        listed = isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)
        require(
            names == "all-linear" or bool(listed),
            "train.lora.target_modules",
            names,
            "all-linear or a list of module names",
        )


@dataclass
class TrainSettings:
    lora: Lora = field(default_factory=Lora)

    quantization: str = "nf4"  # of the frozen base: nf4 (4 bits a weight) | none
    double_quantization: bool = True  # nf4: the scales are quantized too, which saves 0.37 bits a weight
    dtype: str = "bfloat16"  # of computation: bfloat16 | float32; the adapter itself is kept in float32

    optimizer: str = "adamw"  # adamw
    learning_rate: float = 4e-4  # peak, above 0
    schedule: str = "cosine"  # from the peak to 0: cosine | linear; constant stays at the peak
    warmup: float = 0.03  # share of the steps in which the learning rate rises to its peak, 0 to below 1
    weight_decay: float = 0.0  # of adamw, 0 or more
    max_grad_norm: float = 1.0  # the gradient's norm is clipped to it; 0: not clipped

    epochs: float = 2.0  # passes over the training packs, above 0; a fraction is allowed
    max_tokens: int = 0  # tokens to train on at most, prompts included; 0: no limit but epochs
    max_steps: int = 0  # optimizer steps at most; 0: no limit but epochs
    micro_batch: int = 2  # packs in one forward and backward pass; bounds the memory
    accumulation: int = 1  # micro batches in one optimizer step
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, a third slower

    eval_every: int = 0  # steps between validation losses; 0: before the first and after the last step only
    eval_tokens: int = 0  # tokens of the validation packs that are used, in their order; 0: all
    save_every: int = 20  # steps between checkpoints, from which a killed training goes on; 0: none
    log_every: int = 1  # steps a row of reports/train.csv

    seed: int = 0  # adapter initialisation, dropout, order of packs
    threads: int = 0  # CPU threads; 0: as many as there are cores for this process

    def __post_init__(self) -> None:
        for key, allowed in (
            ("quantization", QUANTIZATIONS),
            ("dtype", DTYPES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            value = getattr(self, key)
            require(value in allowed, f"train.{key}", value, "one of " + ", ".join(allowed))
        for key in ("learning_rate", "epochs"):
            require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "a number above 0")
        for key in ("micro_batch", "accumulation", "log_every"):
            require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "at least 1")
        for key in (
            "weight_decay",
            "max_grad_norm",
            "max_tokens",
            "max_steps",
            "eval_every",
            "eval_tokens",
            "save_every",
            "seed",
            "threads",
        ):
            require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        require(0 <= self.warmup < 1, "train.warmup", self.warmup, "a share in [0, 1)")
