"""Optimizers and learning rate schedules by their names in the settings: PyTorch's, transformers', bitsandbytes'."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from stages.train.ranks import is_first_rank
from stages.train.schedule import share_of_steps, warmup_steps
from stages.train.settings import TrainSettings

Groups = list[dict[str, Any]]
LION_BETAS = (0.9, 0.99)  # arXiv:2302.06675; Adam's 0.999 is not meant for it


def make_optimizer(settings: TrainSettings, groups: Groups) -> Optimizer:
    """The optimizer of `train.optimizer` over parameter groups, each with `params` and perhaps `lr`, `weight_decay`.

    All take weight decay apart from the gradient: lr x weight_decay x parameter comes off at each step.
    bitsandbytes' 8-bit state is kept for tensors of 4,096 values or more, smaller ones keep 32 bits.
    """
    usual: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    adam: dict[str, Any] = {"betas": (settings.adam_beta1, settings.adam_beta2), "eps": settings.adam_epsilon}
    name = settings.optimizer
    if name == "adamw":
        return AdamW(groups, **usual, **adam, fused=True)
    if name == "muon":
        return MuonWithAdamW(groups, **usual)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        # the rate is the schedule's, not its own (its paper's rate falls with the root of the step)
        return Adafactor(groups, **usual, scale_parameter=False, relative_step=False)
    import bitsandbytes.optim as bitsandbytes

    if name == "lion":
        return bitsandbytes.Lion(groups, **usual, betas=LION_BETAS)
    paged = name.startswith("paged_")
    if paged and not torch.cuda.is_available():
        if is_first_rank():
            told = f"train: without CUDA nothing is paged; {name} computes the same and stays in memory"
            print(told, flush=True)
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    bits = 8 if name.endswith("_8bit") else 32
    return bitsandbytes.AdamW(
        groups, **usual, **adam, optim_bits=bits, is_paged=paged
    )  # paging: not run here


class MuonWithAdamW(Optimizer):
    """Muon for matrices, AdamW for whatever else there is (magnitudes of DoRA): Muon is defined for matrices alone.

    The update of a matrix is scaled to the size of AdamW's (0.2 sqrt(max(rows, columns)), arXiv:2502.16982), so that
    both parts, and a change from adamw to muon, use one learning rate.
    """

    def __init__(self, groups: Groups, lr: float, weight_decay: float) -> None:
        parts: dict[str, Optimizer] = {}
        for matrices, kind in ((True, Muon), (False, AdamW)):
            chosen = [{**g, "params": [p for p in g["params"] if (p.ndim == 2) is matrices]} for g in groups]
            chosen = [g for g in chosen if g["params"]]
            if chosen:
                options: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"} if matrices else {}
                parts[kind.__name__] = kind(chosen, lr=lr, weight_decay=weight_decay, **options)
        self._parts = parts
        joined = [{**group, "part": name} for name, part in parts.items() for group in part.param_groups]
        super().__init__(joined, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both parts, over the groups and the state that this optimizer holds."""
        assert closure is None
        for name, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()


def make_scheduler(settings: TrainSettings, optimizer: Optimizer, steps: int) -> Any:
    """transformers' schedule for `train.schedule` over that many optimizer steps.

    The learning rate of the first step is 0 where there is a warmup (wsd: the floor), the peak where there is none.
    """
    from transformers.optimization import get_scheduler

    warmup, floor = warmup_steps(settings, steps), settings.min_learning_rate
    name = settings.schedule
    options: dict[str, Any] = {}
    if name == "cosine":
        name, options = "cosine_with_min_lr", {"min_lr_rate": floor}
    elif name == "linear":  # transformers' own has no floor
        name, options = "polynomial", {"power": 1.0, "lr_end": floor * settings.learning_rate}
    elif name == "constant":
        name = "constant_with_warmup"
    else:
        name = "warmup_stable_decay"
        decay = min(share_of_steps(settings.decay, steps), steps - warmup)
        # 1 - sqrt falls fast and ends slowly: better than linear and cosine in arXiv:2405.18392
        options = {"num_decay_steps": decay, "decay_type": "1-sqrt", "min_lr_ratio": floor}
    return get_scheduler(name, optimizer, warmup, steps, options)
