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

from stages.common.core.errors import UserError
from stages.common.model.loss import CHUNK_TOKENS, Head, head_of, labelled_targets
from stages.common.model.packed_model import PackedModel

if TYPE_CHECKING:
    from stages.merge.settings import MergeSettings


FEW_TOKENS = 64  # below, the figures of one odd document decide


@dataclass(frozen=True)
class Parity:
    """Figures over labelled tokens; `trained` is adapter plus quantized base, `merged` the merged model."""

    # labelled tokens compared
    tokens: int
    # KL(trained || merged), nats per token: mean, median, and what 99% of the tokens stay below
    mean_kl: float
    median_kl: float
    kl_p99: float
    largest_logit_difference: float
    # share of tokens with the same most likely token
    top1_agreement: float
    # cross entropies, their absolute difference and the standard error of the difference (token by token), nats
    # per token. Reported, not limited: labels that a barely trained model finds very unlikely, such as ends of
    # documents at -11 to -19, move by one to two nats when weights are rounded, and hardly touch the KL
    trained_loss: float
    merged_loss: float
    loss_difference: float
    loss_difference_error: float


@dataclass(frozen=True)
class LabelledStates:
    """A model's last hidden states at the labelled tokens (tokens, size), and its head."""

    states: torch.Tensor
    head: Head


@torch.no_grad()
def read_states(
    load: Callable[[], Any], rows: Sequence[dict[str, Any]], attention: str = "auto"
) -> LabelledStates:
    """Load a model, compute its states at the labelled tokens of flattened packs, and free it."""
    model = PackedModel(load(), attention).eval()
    head = head_of(model.causal)
    kept = []
    for row in rows:
        states = model.hidden(row["input_ids"], row["position_ids"], row["lengths"])[0]
        kept.append(states[labelled_targets(row["labels"])[0].to(states.device)])
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
    targets = targets.to(trained.states.device)
    figures = []  # of each token: KL, agreement, trained loss, merged loss
    largest = 0.0
    for at in range(0, tokens, CHUNK_TOKENS):
        p, q = (side.head.logits(side.states[at : at + CHUNK_TOKENS]).float() for side in (trained, merged))
        difference = (p - q).abs().max()
        largest = max(largest, float(difference)) if difference.isfinite() else float("nan")
        figures.append(compare_tokens(p, q, targets[at : at + CHUNK_TOKENS, None]).cpu())
    kl, agreement, trained_loss, merged_loss = torch.cat(figures, dim=1)
    error = (merged_loss - trained_loss).std(correction=0) / tokens**0.5
    return Parity(
        tokens,
        float(kl.mean()),
        float(kl.quantile(0.5)),
        float(kl.quantile(0.99)),
        largest,
        float(agreement.mean()),
        float(trained_loss.mean()),
        float(merged_loss.mean()),
        abs(float(merged_loss.mean()) - float(trained_loss.mean())),
        float(error),
    )


def all_targets(rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return the labels (tokens,) at the positions that `read_states` keeps."""
    return torch.cat([labelled_targets(row["labels"])[1] for row in rows])


def compare_tokens(p: torch.Tensor, q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q), agreement and both cross entropies, (4, tokens), from logits (tokens, vocabulary)."""
    agreement = p.argmax(-1) == q.argmax(-1)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    losses = [-log.gather(1, targets)[:, 0] for log in (log_p, log_q)]
    return torch.stack([kl, agreement, *losses]).double()


def parity_limits(settings: "MergeSettings") -> dict[str, float]:
    """Return the limits by their keys in conf/merge."""
    keys = ("max_mean_kl", "max_median_kl", "max_kl_p99", "max_logit_difference", "min_top1_agreement")
    return {key: getattr(settings, key) for key in keys}


def check_parity(parity: Parity, settings: "MergeSettings") -> None:
    """Raise UserError with all figures if one of them is beyond its limit or not a number."""
    within_limit = {
        "mean_kl": parity.mean_kl <= settings.max_mean_kl,
        "median_kl": parity.median_kl <= settings.max_median_kl,
        "kl_p99": parity.kl_p99 <= settings.max_kl_p99,
        "largest_logit_difference": parity.largest_logit_difference <= settings.max_logit_difference,
        "top1_agreement": parity.top1_agreement >= settings.min_top1_agreement,
    }
    failed = [name for name, ok in within_limit.items() if not ok]
    if failed:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in asdict(parity).items())
        if parity.tokens < FEW_TOKENS:
            raise UserError(
                f"only {parity.tokens} labelled tokens were compared, too few to tell a wrong merge from rounding: "
                f"{', '.join(failed)} beyond the limit in conf/merge/{settings.base}.yaml. Measured: {figures}. "
                "Nothing was written. Raise merge.parity_tokens, or hold out more rows (pack.validation_share)."
            )
        raise UserError(
            f"the merged model is not the trained one: {', '.join(failed)} beyond the limit in "
            f"conf/merge/{settings.base}.yaml. Measured: {figures}. Nothing was written. Raise the limits "
            "there if the model is this sensitive; otherwise something was merged wrongly."
        )
