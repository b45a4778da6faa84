"""How far two models are from each other on the same tokens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from stages.common.errors import UserError
from stages.common.loss import CHUNK, labelled
from stages.common.quantized import PackedModel

if TYPE_CHECKING:
    from stages.merge.settings import MergeSettings


@dataclass(frozen=True)
class Parity:
    """Figures over labelled tokens; `trained` is the adapter on the 4-bit base, `merged` the merged model."""

    tokens: int  # labelled tokens compared
    mean_kl: float  # KL(trained || merged), nats a token
    largest_logit_difference: float
    top1_agreement: float  # share of tokens with the same likeliest token
    trained_loss: float  # cross entropy, nats a token
    merged_loss: float


@torch.no_grad()
def compare(trained: PackedModel, merged: PackedModel, rows: Sequence[dict[str, Any]]) -> Parity:
    """Compare the next-token distributions of two models at the labelled tokens of rows made by `flatten`.

    Raises:
        UserError: no token of the rows has a label, so nothing would be compared.
    """
    totals = torch.zeros(
        4, dtype=torch.float64, device=trained.device
    )  # KL, agreement, loss of trained, loss of merged
    largest, tokens = 0.0, 0
    for row in rows:
        positions, targets = labelled(row["labels"].to(trained.device))
        logits = [states(model, row)[positions] for model in (trained, merged)]
        for at in range(0, len(targets), CHUNK):
            part = [h[at : at + CHUNK] for h in logits]
            p, q = (head(model, h) for model, h in zip((trained, merged), part, strict=True))
            largest = max(largest, float((p - q).abs().max()))
            totals += chunk_totals(p, q, targets[at : at + CHUNK, None])
        tokens += len(targets)
    if not tokens:
        raise UserError(
            "data/packed: no labelled token to compare the merged model on. Run `dvc repro pack`."
        )
    mean_kl, agreement, trained_loss, merged_loss = (totals / tokens).tolist()
    return Parity(tokens, mean_kl, largest, agreement, trained_loss, merged_loss)


def states(model: PackedModel, row: dict[str, Any]) -> torch.Tensor:
    return model.hidden(row["input_ids"], row["position_ids"], row["lengths"])[0]


def head(model: PackedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits, float32."""
    return (hidden @ model.causal.get_output_embeddings().weight.t()).float()


def chunk_totals(p: torch.Tensor, q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sums over tokens of KL(p || q), agreement, and both cross entropies, from logits (tokens, vocabulary)."""
    agreement = (p.argmax(-1) == q.argmax(-1)).sum()
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    losses = [-log.gather(1, targets).sum() for log in (log_p, log_q)]
    return torch.stack([kl, agreement, *losses]).double()


def check(parity: Parity, settings: "MergeSettings") -> None:
    """The gate.

    Raises:
        UserError: a figure is over its limit (or not a number); gives all of them.
    """
    difference = abs(parity.merged_loss - parity.trained_loss)
    held = {
        "mean_kl": parity.mean_kl <= settings.max_mean_kl,
        "largest_logit_difference": parity.largest_logit_difference <= settings.max_logit_difference,
        "top1_agreement": parity.top1_agreement >= settings.min_top1_agreement,
        "loss difference": difference <= settings.max_loss_difference,
    }
    failed = [name for name, ok in held.items() if not ok]
    if failed:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in asdict(parity).items())
        raise UserError(
            f"the merged model is not the trained one: {', '.join(failed)} over the limit of conf/merge. Measured: "
            f"{figures}. Nothing was written. If the model is this sensitive, raise the limits in conf/merge; "
            f"otherwise something was merged wrongly."
        )
