"""Make the optimizer and the learning rate schedule that the settings name: PyTorch's, transformers', bitsandbytes'."""

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
    """Make the optimizer of `train.optimizer` over groups with `params` and optionally `lr` and `weight_decay`.

    Weight decay is decoupled in all of them: each step subtracts lr x weight_decay x parameter. bitsandbytes keeps
    8-bit state for tensors of 4,096 values or more, and 32 bits for smaller ones.
    """
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    adam: dict[str, Any] = {"betas": (settings.adam_beta1, settings.adam_beta2), "eps": settings.adam_epsilon}
    name = settings.optimizer
    if name == "adamw":
        return AdamW(groups, **common, **adam, fused=True)
    if name == "muon":
        return MuonWithAdamW(groups, **common)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        # The schedule sets the learning rate, not Adafactor itself (its paper's falls with the root of the step)
        return Adafactor(groups, **common, scale_parameter=False, relative_step=False)
    import bitsandbytes.optim as bitsandbytes

    if name == "lion":
        return bitsandbytes.Lion(groups, **common, betas=LION_BETAS)
    paged = name.startswith("paged_")
    if paged and not torch.cuda.is_available():
        if is_first_rank():
            print(
                f"train: {name} pages nothing without CUDA; it computes the same and stays in memory",
                flush=True,
            )
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    bits = 8 if name.endswith("_8bit") else 32
    if not paged:
        return bitsandbytes.AdamW(groups, **common, **adam, optim_bits=bits)

    class PagedAdamW(bitsandbytes.AdamW):  # paging has not been run yet
        """Pages after a resume too: bitsandbytes loads its state into tensors that are not paged."""

        def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
            super().load_state_dict(state_dict, move_to_device)
            for parameter, state in self.state.items():
                for key in ("state1", "state2"):
                    if key in state:
                        paged_state = self.get_state_buffer(parameter, state[key].dtype)
                        state[key] = paged_state.copy_(state[key])

    return PagedAdamW(groups, **common, **adam, optim_bits=bits, is_paged=True)


class MuonWithAdamW(Optimizer):
    """Muon for matrices and AdamW for the rest (DoRA's magnitudes), because Muon is defined for matrices only.

    A matrix's update is scaled to the size of AdamW's (0.2 sqrt(max(rows, columns)), arXiv:2502.16982), so that both
    parts share one learning rate, and a change from adamw to muon keeps it.
    """

    def __init__(self, groups: Groups, lr: float, weight_decay: float) -> None:
        parts: dict[str, Optimizer] = {}
        for matrices, kind in ((True, Muon), (False, AdamW)):
            own = [{**g, "params": [p for p in g["params"] if (p.ndim == 2) is matrices]} for g in groups]
            own = [g for g in own if g["params"]]
            if own:
                options: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"} if matrices else {}
                parts[kind.__name__] = kind(own, lr=lr, weight_decay=weight_decay, **options)
        self._parts = parts
        joined = [{**group, "part": name} for name, part in parts.items() for group in part.param_groups]
        super().__init__(joined, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step both parts, over the groups and the state that this optimizer holds."""
        assert closure is None
        for name, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()


def make_scheduler(settings: TrainSettings, optimizer: Optimizer, steps: int) -> Any:
    """Make transformers' schedule for `train.schedule` over `steps` optimizer steps.

    The first step's learning rate is 0 with a warmup (wsd: the floor), and the peak without one.
    """
    from transformers.optimization import get_scheduler

    warmup, floor = warmup_steps(settings, steps), settings.min_learning_rate
    name = settings.schedule
    options: dict[str, Any] = {}
    if name == "cosine":
        name, options = "cosine_with_min_lr", {"min_lr_rate": floor}
    elif name == "linear":  # transformers' linear schedule has no floor
        name, options = "polynomial", {"power": 1.0, "lr_end": floor * settings.learning_rate}
    elif name == "constant":
        name = "constant_with_warmup"
    else:
        name = "warmup_stable_decay"
        decay = min(share_of_steps(settings.decay, steps), steps - warmup)
        # 1 - sqrt falls fast, then slowly: better than linear and cosine in arXiv:2405.18392
        options = {"num_decay_steps": decay, "decay_type": "1-sqrt", "min_lr_ratio": floor}
    return get_scheduler(name, optimizer, warmup, steps, options)
