"""Settings of the train stage."""

import re
from dataclasses import dataclass, field
from typing import Any

from stages.common.sections import require

QUANTIZATIONS = ("nf4", "fp4", "int8", "none")
INITIALISATIONS = ("default", "pissa", "olora", "eva", "loftq")
DTYPES = ("bfloat16", "float32")
OPTIMIZERS = ("adamw",)
SCHEDULES = ("cosine", "linear", "constant")


@dataclass
class Lora:
    rank: int = 16  # rank of the update, 1 or more
    alpha: int = 32  # the update is scaled by alpha / rank (rslora: alpha / sqrt(rank)), 1 or more
    dropout: float = 0.0  # share of the adapter's input that is dropped, 0 to below 1
    # all-linear (every linear layer but the head), a list of names ([q_proj, v_proj]), or a regular expression
    # that the whole name of a layer matches ('.*layers\.[0-9]\.self_attn\.[qv]_proj'), as in peft
    target_modules: Any = "all-linear"
    rslora: bool = False  # scale by alpha / sqrt(rank), for high ranks (arXiv:2312.03732)
    dora: bool = False  # learn length and direction of each row of W apart (arXiv:2402.09353); slower
    loraplus_lr_ratio: float = (
        1.0  # B learns that many times as fast as A (LoRA+, arXiv:2402.12354), 1 or more
    )
    # A random and B zero: default; the top of W's spectrum, subtracted from it: pissa (arXiv:2404.02948); of its QR
    # decomposition: olora (arXiv:2406.01775); A from the inputs' spectrum: eva (arXiv:2410.07170); what quantization
    # loses of W: loftq (arXiv:2310.08659)
    init: str = "default"
    svd_niter: int = (
        0  # pissa, loftq: 0: exact SVD, a minute a layer at 7B; 4 to 16: fast, that many iterations
    )
    eva_tokens: int = (
        16384  # eva: tokens of the first packs in training order, over which it goes till it settles
    )
    eva_rho: float = (
        1.0  # eva: a layer may have up to that many times `rank`, and others less; 1: all have `rank`
    )

    def __post_init__(self) -> None:
        require(self.rank >= 1, "train.lora.rank", self.rank, "at least 1")
        require(self.alpha >= 1, "train.lora.alpha", self.alpha, "at least 1")
        require(0 <= self.dropout < 1, "train.lora.dropout", self.dropout, "a number in [0, 1)")
        for key in ("loraplus_lr_ratio", "eva_rho"):
            require(getattr(self, key) >= 1, f"train.lora.{key}", getattr(self, key), "a number of 1 or more")
        require(self.svd_niter >= 0, "train.lora.svd_niter", self.svd_niter, "0 or more")
        require(self.eva_tokens >= 1, "train.lora.eva_tokens", self.eva_tokens, "at least 1")
        known = "one of " + ", ".join(INITIALISATIONS)
        require(self.init in INITIALISATIONS, "train.lora.init", self.init, known)
        names = self.target_modules
        listed = isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)
        require(
            bool(listed) or (isinstance(names, str) and is_pattern(names)),
            "train.lora.target_modules",
            names,
            "all-linear, a list of module names, or a regular expression",
        )


def is_pattern(text: str) -> bool:
    try:
        return bool(text) and bool(re.compile(text))
    except re.error:
        return False


@dataclass
class TrainSettings:
    lora: Lora = field(default_factory=Lora)

    quantization: str = "nf4"  # of the frozen base: nf4, fp4 (4 bits a weight) | int8 (8 bits) | none
    double_quantization: bool = True  # nf4, fp4: the scales are quantized too, which saves 0.37 bits a weight
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
        loses = self.lora.init != "loftq" or self.quantization != "none"
        require(
            loses, "train.quantization", self.quantization, "nf4, fp4 or int8 where train.lora.init is loftq"
        )
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
