"""Settings of the train stage."""

import re
from dataclasses import dataclass, field
from typing import Any

from stages.common.core.settings import require

QUANTIZATIONS = ("nf4", "fp4", "int8", "none")
INITIALISATIONS = ("default", "loftq")
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
ATTENTIONS = ("auto", "dense", "sdpa", "flex", "flash")
LAUNCHERS = ("python", "accelerate")
ACCELERATE = ("ddp", "fsdp")
ADAMW = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
OPTIMIZERS = (*ADAMW, "adafactor", "lion", "muon")
SCHEDULES = ("cosine", "linear", "constant", "wsd")
ADAM_CONSTANTS = ("adam_beta1", "adam_beta2", "adam_epsilon")


@dataclass
class Lora:
    # rank of the update, 1 or more
    rank: int = 16
    # the update is scaled by alpha / rank (rslora: alpha / sqrt(rank)), 1 or more
    alpha: int = 32
    # share of the adapter's input that is dropped, 0 to below 1
    dropout: float = 0.0
    # all-linear (every linear layer except the head), a list of names ([q_proj, v_proj]), or a regular expression
    # that matches a layer's whole name ('.*layers\.[0-9]\.self_attn\.[qv]_proj'), as in peft
    target_modules: Any = "all-linear"
    # scale by alpha / sqrt(rank), for high ranks (arXiv:2312.03732)
    rslora: bool = False
    # learn length and direction of each row of W separately (arXiv:2402.09353); slower
    dora: bool = False
    # B learns this many times as fast as A (LoRA+, arXiv:2402.12354), 1 or more
    loraplus_lr_ratio: float = 1.0
    # default: A random and B zero | loftq: what quantization loses of W (arXiv:2310.08659)
    init: str = "default"
    # loftq: 0: exact SVD, a minute per layer at 7B; 4 to 16: fast SVD with this many iterations
    svd_niter: int = 0

    def __post_init__(self) -> None:
        require(self.rank >= 1, "train.lora.rank", self.rank, "at least 1")
        require(self.alpha >= 1, "train.lora.alpha", self.alpha, "at least 1")
        require(0 <= self.dropout < 1, "train.lora.dropout", self.dropout, "a number in [0, 1)")
        expected = "a number of 1 or more"
        require(self.loraplus_lr_ratio >= 1, "train.lora.loraplus_lr_ratio", self.loraplus_lr_ratio, expected)
        require(self.svd_niter >= 0, "train.lora.svd_niter", self.svd_niter, "0 or more")
        expected = "one of " + ", ".join(INITIALISATIONS)
        require(self.init in INITIALISATIONS, "train.lora.init", self.init, expected)
        names = self.target_modules
        is_list_of_names = isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)
        require(
            bool(is_list_of_names) or (isinstance(names, str) and is_pattern(names)),
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

    # of the frozen base: nf4 | fp4 (4 bits per weight) | int8 (8 bits) | none
    quantization: str = "nf4"
    # nf4, fp4: quantize the scales too, which saves 0.37 bits per weight
    double_quantization: bool = True
    # of computation: bfloat16 | float16 (CUDA, for GPUs without bfloat16: T4, V100; the loss is scaled) | float32; the
    # adapter itself is kept in float32
    dtype: str = "bfloat16"

    # adamw | adamw_8bit (its state in 8 bits per value) | paged_adamw, paged_adamw_8bit (CUDA: the state moves to host
    # memory where the GPU's runs short) | adafactor (state of a row and a column per matrix) | lion (one state, a third
    # to a tenth of adamw's learning rate) | muon (adamw's learning rate; DoRA's magnitudes use adamw)
    optimizer: str = "adamw"
    # peak, above 0
    learning_rate: float = 4e-4
    # after the warmup: cosine | linear | constant | wsd (constant, then `decay`)
    schedule: str = "cosine"
    # where cosine, linear and wsd end, as a share of the peak, 0 to below 1
    min_learning_rate: float = 0.0
    # share of the steps in which the learning rate rises to its peak, 0 to below 1
    warmup: float = 0.03
    # the same in steps, for recipes that give it so (set warmup: 0); 0: use the share
    warmup_steps: int = 0
    # wsd: share of the steps, the last ones, in which the learning rate falls, above 0
    decay: float = 0.2
    # each step subtracts this, times the learning rate, of every matrix, 0 or more
    weight_decay: float = 0.0
    # the four adamw: decay of the mean gradient, 0 to below 1
    adam_beta1: float = 0.9
    # the four adamw: decay of the mean squared gradient, 0 to below 1
    adam_beta2: float = 0.999
    # the four adamw: added to the root of the mean squared gradient, above 0
    adam_epsilon: float = 1e-8
    # the gradient's norm is clipped to this; 0: not clipped
    max_grad_norm: float = 1.0
    # noise on embeddings of alpha / sqrt(document's tokens x size); 5 is usual, 0: none
    neftune_alpha: float = 0.0

    # folder of a LoRA adapter to start from, of an earlier run (copied out of models/adapter) or of peft, relative to the
    # repository's root; rank, alpha, kind and layers must be those of train.lora. '': a fresh adapter
    start_from: str = ""
    # how much a labelled token counts in the training's loss, by the source of its row, above 0; others count 1
    source_weights: dict[str, float] = field(default_factory=dict)

    # passes over the training packs, above 0; fractions are allowed
    epochs: float = 2.0
    # most tokens to train on, prompts included; 0: only epochs limit them
    max_tokens: int = 0
    # most optimizer steps; 0: only epochs limit them
    max_steps: int = 0
    # packs in one forward and backward pass of one process; bounds the memory
    micro_batch: int = 2
    # micro batches in one optimizer step, over all processes; at least one for each process
    accumulation: int = 1
    # within the documents of a row: auto (the fastest here) | dense (keeps probabilities; CPU, short documents) | sdpa
    # (PyTorch's kernel, document by document) | flex (FlexAttention, CUDA) | flash (FlashAttention-2, CUDA)
    attention: str = "auto"
    # recompute activations in backward: less memory, a third slower
    gradient_checkpointing: bool = False

    # steps between validation losses; 0: only before the first and after the last step
    eval_every: int = 0
    # stop after this many validation losses without improvement; 0: never
    early_stopping_patience: int = 0
    # nats by which a validation loss must be lower to count as an improvement
    early_stopping_min_delta: float = 0.0
    # write the adapter of the lowest validation loss, not that of the last step
    keep_best: bool = False
    # tokens of the validation packs to use, in their order; 0: all
    eval_tokens: int = 0
    # steps between checkpoints, from which a killed training resumes; 0: no checkpoints
    save_every: int = 20
    # steps per row of reports/train.csv
    log_every: int = 1

    # of adapter initialisation, dropout and order of packs
    seed: int = 0
    # CPU threads per process; 0: the available cores, divided among the processes
    threads: int = 0

    # python: one process | accelerate: several, through `accelerate launch`
    launcher: str = "python"
    # file of conf/train/accelerate: ddp (each process holds the whole model) | fsdp (each holds a shard of the frozen
    # base and the whole adapter; not with int8)
    accelerate: str = "ddp"
    # accelerate: how many; 0: one per GPU
    processes: int = 0

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
        is_lossy = self.lora.init != "loftq" or self.quantization != "none"
        expected = "nf4, fp4 or int8 where train.lora.init is loftq"
        require(is_lossy, "train.quantization", self.quantization, expected)
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
        for name, weight in self.source_weights.items():
            require(weight > 0, f"train.source_weights.{name}", weight, "a number above 0")
        relative = not self.start_from.startswith(("/", "~"))
        require(relative, "train.start_from", self.start_from, "a path relative to the repository's root")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Refuse keys that contradict each other, or that another key's value makes ineffective."""
        warmup = "0 where train.warmup_steps is set: either sets the length of the warmup"
        require(not (self.warmup and self.warmup_steps), "train.warmup", self.warmup, warmup)
        starts_anew = not self.start_from or self.lora.init == "default"
        anew = "default with train.start_from: A and B begin as that adapter's"
        require(starts_anew, "train.lora.init", self.lora.init, anew)
        if self.launcher == "accelerate" and self.accelerate == "fsdp":
            kinds = "nf4, fp4 or none with train.accelerate: fsdp, which loses the scales of int8"
            require(self.quantization != "int8", "train.quantization", self.quantization, kinds)
        if self.schedule == "wsd":
            share = "a share in (0, 1 - train.warmup]"
            require(0 < self.decay <= 1 - self.warmup, "train.decay", self.decay, share)
        if self.schedule == "constant":
            floor = "0 with train.schedule: constant, which never falls"
            require(self.min_learning_rate == 0, "train.min_learning_rate", self.min_learning_rate, floor)
        if self.optimizer not in ADAMW:
            for key in ADAM_CONSTANTS:
                value, default = getattr(self, key), self.__dataclass_fields__[key].default
                expected = f"{default}: train.optimizer: {self.optimizer} does not use it"
                require(value == default, f"train.{key}", value, expected)
        compares_losses = self.keep_best or self.early_stopping_patience > 0
        expected = "at least 1 with train.keep_best or train.early_stopping_patience, which compare validation losses"
        require(self.eval_every > 0 or not compares_losses, "train.eval_every", self.eval_every, expected)
