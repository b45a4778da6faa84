"""Measure how far the merged model is from the trained one on the same tokens, and enforce the limits.

The models are loaded one after the other, and each is freed before the next. So a comparison takes the memory
of the larger one (the merged model in 16 bits, as in evaluation) and of the last hidden states of the
labelled tokens.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from stages.common.errors import UserError
from stages.common.model.loss import CHUNK_TOKENS, labelled_targets
from stages.common.model.packed_model import PackedModel

if TYPE_CHECKING:
    from stages.merge.settings import MergeSettings


@dataclass(frozen=True)
class Parity:
    """Figures over labelled tokens; `trained` is adapter plus quantized base, `merged` the merged model."""

    # labelled tokens compared
    tokens: int
    # KL(trained || merged), nats per token
    mean_kl: float
    largest_logit_difference: float
    # share of tokens with the same most likely token
    top1_agreement: float
    # cross entropies and their absolute difference, nats per token
    trained_loss: float
    merged_loss: float
    loss_difference: float


@dataclass(frozen=True)
class LabelledStates:
    """A model's last hidden states at the labelled tokens (tokens, size), and its head (vocabulary, size)."""

    states: torch.Tensor
    head: torch.Tensor


@torch.no_grad()
def read_states(load: Callable[[], Any], rows: Sequence[dict[str, Any]]) -> LabelledStates:
    """Load a model, compute its states at the labelled tokens of flattened packs, and free it."""
    model = PackedModel(load()).eval()
    head = model.causal.get_output_embeddings().weight.detach()
    kept = []
    for row in rows:
        states = model.hidden(row["input_ids"], row["position_ids"], row["lengths"])[0]
        kept.append(states[labelled_targets(row["labels"])[0].to(head.device)])
    del model
    gc.collect()  # models contain reference cycles
    return LabelledStates(torch.cat(kept), head)


@torch.no_grad()
def measure_parity(trained: LabelledStates, merged: LabelledStates, targets: torch.Tensor) -> Parity:
    """Compare the next-token distributions of two models.

    Args:
        targets: labels (tokens,) of the positions whose states both hold.

    Raises:
        UserError: there are no labels, so nothing would be compared.
    """
    tokens = len(targets)
    if not tokens:
        raise UserError(
            "data/packed: no labelled token to compare the merged model on. Run `dvc repro pack`."
        )
    targets = targets.to(trained.head.device)
    totals = torch.zeros(4, dtype=torch.float64)  # KL, agreement, trained loss, merged loss
    largest = 0.0
    for at in range(0, tokens, CHUNK_TOKENS):
        p, q = ((side.states[at : at + CHUNK_TOKENS] @ side.head.t()).float() for side in (trained, merged))
        difference = (p - q).abs().max()
        largest = max(largest, float(difference)) if difference.isfinite() else float("nan")
        totals += chunk_totals(p, q, targets[at : at + CHUNK_TOKENS, None]).cpu()
    mean_kl, agreement, trained_loss, merged_loss = (totals / tokens).tolist()
    loss_difference = abs(merged_loss - trained_loss)
    return Parity(tokens, mean_kl, largest, agreement, trained_loss, merged_loss, loss_difference)


def all_targets(rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return the labels (tokens,) at the positions that `read_states` keeps."""
    return torch.cat([labelled_targets(row["labels"])[1] for row in rows])


def chunk_totals(p: torch.Tensor, q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return summed KL(p || q), agreement and both cross entropies, from logits (tokens, vocabulary)."""
    agreement = (p.argmax(-1) == q.argmax(-1)).sum()
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    losses = [-log.gather(1, targets).sum() for log in (log_p, log_q)]
    return torch.stack([kl, agreement, *losses]).double()


def parity_limits(settings: "MergeSettings") -> dict[str, float]:
    """Return the limits by their keys in conf/merge."""
    keys = ("max_mean_kl", "max_logit_difference", "min_top1_agreement", "max_loss_difference")
    return {key: getattr(settings, key) for key in keys}


def check_parity(parity: Parity, settings: "MergeSettings") -> None:
    """Raise UserError with all figures if one of them is beyond its limit or not a number."""
    within_limit = {
        "mean_kl": parity.mean_kl <= settings.max_mean_kl,
        "largest_logit_difference": parity.largest_logit_difference <= settings.max_logit_difference,
        "top1_agreement": parity.top1_agreement >= settings.min_top1_agreement,
        "loss_difference": parity.loss_difference <= settings.max_loss_difference,
    }
    failed = [name for name, ok in within_limit.items() if not ok]
    if failed:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in asdict(parity).items())
        raise UserError(
            f"the merged model is not the trained one: {', '.join(failed)} beyond the limit in "
            f"conf/merge/{settings.base}.yaml. Measured: {figures}. Nothing was written. Raise the limits "
            "there if the model is this sensitive; otherwise something was merged wrongly."
        )
