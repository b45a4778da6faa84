"""Settings of the train stage."""

import re
from dataclasses import dataclass, field
from typing import Any

from stages.common.settings import require

QUANTIZATIONS = ("nf4", "fp4", "int8", "none")
INITIALISATIONS = ("default", "pissa", "olora", "eva", "loftq")
COMPUTE_DTYPES = ("bfloat16", "float32")
ATTENTIONS = ("auto", "dense", "sdpa", "flex", "flash")
LAUNCHERS = ("python", "accelerate")
ACCELERATE = ("ddp", "fsdp")
ADAMW = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
OPTIMIZERS = (*ADAMW, "adafactor", "lion", "muon")
SCHEDULES = ("cosine", "linear", "constant", "wsd")
ADAM_CONSTANTS = ("adam_beta1", "adam_beta2", "adam_epsilon")


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

    # adamw | adamw_8bit (its state in 8 bits a value) | paged_adamw, paged_adamw_8bit (CUDA: the state goes to the
    # host's memory where the GPU's runs short) | adafactor (state of a row and a column a matrix) | lion (one state,
    # a third to a tenth of adamw's learning rate) | muon (adamw's learning rate; DoRA's magnitudes by adamw)
    optimizer: str = "adamw"
    learning_rate: float = 4e-4  # peak, above 0
    schedule: str = "cosine"  # after the warmup: cosine | linear | constant | wsd (constant, then `decay`)
    min_learning_rate: float = 0.0  # where cosine, linear and wsd end, as a share of the peak, 0 to below 1
    warmup: float = 0.03  # share of the steps in which the learning rate rises to its peak, 0 to below 1
    warmup_steps: int = 0  # the same in steps, for recipes that say so (set warmup: 0); 0: the share counts
    decay: float = 0.2  # wsd: share of the steps, the last ones, in which it falls, above 0
    weight_decay: float = 0.0  # times the learning rate is taken off every matrix a step, 0 or more
    adam_beta1: float = 0.9  # of the four adamw: of the mean gradient, 0 to below 1
    adam_beta2: float = 0.999  # of the mean squared gradient, 0 to below 1
    adam_epsilon: float = 1e-8  # added to its root, above 0
    max_grad_norm: float = 1.0  # the gradient's norm is clipped to it; 0: not clipped
    neftune_alpha: float = (
        0.0  # noise on embeddings, alpha / sqrt(document's tokens x size); 5 is usual, 0: none
    )

    epochs: float = 2.0  # passes over the training packs, above 0; a fraction is allowed
    max_tokens: int = 0  # tokens to train on at most, prompts included; 0: no limit but epochs
    max_steps: int = 0  # optimizer steps at most; 0: no limit but epochs
    micro_batch: int = 2  # packs in one forward and backward pass of one process; bounds the memory
    accumulation: int = 1  # micro batches in one optimizer step, over all processes; at least one for each
    # of the documents of a row: auto picks what is fastest here; dense keeps probabilities (CPU, short documents); sdpa
    # is PyTorch's kernel, a document at a time; flex (FlexAttention) and flash (FlashAttention-2) run on CUDA
    attention: str = "auto"  # auto | dense | sdpa | flex | flash
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, a third slower

    eval_every: int = 0  # steps between validation losses; 0: before the first and after the last step only
    early_stopping_patience: int = 0  # ends after that many validation losses without improvement; 0: never
    early_stopping_min_delta: float = (
        0.0  # nats by which a validation loss must be lower to be an improvement
    )
    keep_best: bool = False  # write the adapter of the lowest validation loss, not that of the last step
    eval_tokens: int = 0  # tokens of the validation packs that are used, in their order; 0: all
    save_every: int = 20  # steps between checkpoints, from which a killed training goes on; 0: none
    log_every: int = 1  # steps a row of reports/train.csv

    seed: int = 0  # adapter initialisation, dropout, order of packs
    threads: int = 0  # CPU threads of a process; 0: the cores that there are, shared by the processes

    launcher: str = "python"  # python: one process | accelerate: several, through `accelerate launch`
    # file of conf/train/accelerate: ddp (each process has the whole model) | fsdp (a part of the frozen base and the
    # whole adapter; not with int8)
    accelerate: str = "ddp"
    processes: int = 0  # accelerate: how many; 0: one a GPU

    def __post_init__(self) -> None:
        for key, allowed in (
            ("quantization", QUANTIZATIONS),
            ("dtype", COMPUTE_DTYPES),
            ("attention", ATTENTIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("launcher", LAUNCHERS),
            ("accelerate", ACCELERATE),
        ):
            value = getattr(self, key)
            require(value in allowed, f"train.{key}", value, "one of " + ", ".join(allowed))
        loses = self.lora.init != "loftq" or self.quantization != "none"
        require(
            loses, "train.quantization", self.quantization, "nf4, fp4 or int8 where train.lora.init is loftq"
        )
        for key in ("learning_rate", "epochs", "adam_epsilon"):
            require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "a number above 0")
        for key in ("micro_batch", "accumulation", "log_every"):
            require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "at least 1")
        for key in (
            "warmup_steps",
            "weight_decay",
            "max_grad_norm",
            "neftune_alpha",
            "max_tokens",
            "max_steps",
            "eval_every",
            "early_stopping_patience",
            "early_stopping_min_delta",
            "eval_tokens",
            "save_every",
            "seed",
            "threads",
            "processes",
        ):
            require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        for key in ("warmup", "min_learning_rate", "adam_beta1", "adam_beta2"):
            require(0 <= getattr(self, key) < 1, f"train.{key}", getattr(self, key), "a number in [0, 1)")
        self._agree()

    def _agree(self) -> None:
        """Keys that say the same twice, or that another key's value leaves without effect."""
        warmup = "0 where train.warmup_steps is set: one of them says how long the warmup is"
        require(not (self.warmup and self.warmup_steps), "train.warmup", self.warmup, warmup)
        if self.launcher == "accelerate" and self.accelerate == "fsdp":
            kinds = "nf4, fp4 or none with train.accelerate: fsdp, which leaves the scales of int8 behind"
            require(self.quantization != "int8", "train.quantization", self.quantization, kinds)
        if self.schedule == "wsd":
            share = "a share in (0, 1 - train.warmup]"
            require(0 < self.decay <= 1 - self.warmup, "train.decay", self.decay, share)
        if self.schedule == "constant":
            floor = "0 with train.schedule: constant, which falls to nothing"
            require(self.min_learning_rate == 0, "train.min_learning_rate", self.min_learning_rate, floor)
        if self.optimizer not in ADAMW:
            for key in ADAM_CONSTANTS:
                value, usual = getattr(self, key), self.__dataclass_fields__[key].default
                theirs = f"{usual}, as train.optimizer: {self.optimizer} has constants of its own"
                require(value == usual, f"train.{key}", value, theirs)
        judged = self.keep_best or self.early_stopping_patience > 0
        asked = "at least 1 with train.keep_best or train.early_stopping_patience, which compare validation losses"
        require(self.eval_every > 0 or not judged, "train.eval_every", self.eval_every, asked)
