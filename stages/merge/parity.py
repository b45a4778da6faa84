"""How far the merged model is from the trained one, on the same tokens; and the limits to that.

The models are looked at one after the other, each freed before the next: a comparison takes the memory of the larger
one (the merged model in 16 bits, as evaluating it does) and of the last states of the labelled tokens.
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
    """Figures over labelled tokens; `trained` is the adapter on the quantized base, `merged` the merged model."""

    tokens: int  # labelled tokens compared
    mean_kl: float  # KL(trained || merged), nats a token
    largest_logit_difference: float
    top1_agreement: float  # share of tokens with the same likeliest token
    trained_loss: float  # cross entropy, nats a token
    merged_loss: float
    loss_difference: float  # between the two, nats a token


@dataclass(frozen=True)
class View:
    """What one model makes of the labelled tokens: its states before the head (tokens, size), and its head."""

    states: torch.Tensor
    head: torch.Tensor


@torch.no_grad()
def view(load: Callable[[], Any], rows: Sequence[dict[str, Any]]) -> View:
    """Load a model, look at the labelled tokens of rows from `flatten_packs`, and let it go."""
    model = PackedModel(load()).eval()
    head = model.causal.get_output_embeddings().weight.detach()
    seen = []
    for row in rows:
        states = model.hidden(row["input_ids"], row["position_ids"], row["lengths"])[0]
        seen.append(states[labelled_targets(row["labels"])[0].to(head.device)])
    del model
    gc.collect()  # models hold themselves in circles
    return View(torch.cat(seen), head)


@torch.no_grad()
def compare(trained: View, merged: View, targets: torch.Tensor) -> Parity:
    """Compare the next-token distributions of two models.

    Args:
        targets: the labels (tokens,) of the positions that both have seen.

    Raises:
        UserError: there is none, so nothing would be compared.
    """
    tokens = len(targets)
    if not tokens:
        raise UserError(
            "data/packed: no labelled token to compare the merged model on. Run `dvc repro pack`."
        )
    targets = targets.to(trained.head.device)
    totals = torch.zeros(4, dtype=torch.float64)  # KL, agreement, loss of trained, loss of merged
    largest = 0.0
    for at in range(0, tokens, CHUNK_TOKENS):
        p, q = ((side.states[at : at + CHUNK_TOKENS] @ side.head.t()).float() for side in (trained, merged))
        difference = (p - q).abs().max()
        largest = max(largest, float(difference)) if difference.isfinite() else float("nan")
        totals += chunk_totals(p, q, targets[at : at + CHUNK_TOKENS, None]).cpu()
    mean_kl, agreement, trained_loss, merged_loss = (totals / tokens).tolist()
    distance = abs(merged_loss - trained_loss)
    return Parity(tokens, mean_kl, largest, agreement, trained_loss, merged_loss, distance)


def all_targets(rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The labels (tokens,) at the positions that `view` keeps."""
    return torch.cat([labelled_targets(row["labels"])[1] for row in rows])


def chunk_totals(p: torch.Tensor, q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sums over tokens of KL(p || q), agreement, and both cross entropies, from logits (tokens, vocabulary)."""
    agreement = (p.argmax(-1) == q.argmax(-1)).sum()
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    losses = [-log.gather(1, targets).sum() for log in (log_p, log_q)]
    return torch.stack([kl, agreement, *losses]).double()


def limits(settings: "MergeSettings") -> dict[str, float]:
    """The limits of conf/merge, by their keys there."""
    keys = ("max_mean_kl", "max_logit_difference", "min_top1_agreement", "max_loss_difference")
    return {key: getattr(settings, key) for key in keys}


def check(parity: Parity, settings: "MergeSettings") -> None:
    """The gate.

    Raises:
        UserError: a figure is over its limit (or not a number); gives all of them.
    """
    held = {
        "mean_kl": parity.mean_kl <= settings.max_mean_kl,
        "largest_logit_difference": parity.largest_logit_difference <= settings.max_logit_difference,
        "top1_agreement": parity.top1_agreement >= settings.min_top1_agreement,
        "loss_difference": parity.loss_difference <= settings.max_loss_difference,
    }
    failed = [name for name, ok in held.items() if not ok]
    if failed:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in asdict(parity).items())
        raise UserError(
            f"the merged model is not the trained one: {', '.join(failed)} over the limit of conf/merge/{settings.base}"
            f".yaml. Measured: {figures}. Nothing was written. If the model is this sensitive, raise the limits there; "
            f"otherwise something was merged wrongly."
        )
