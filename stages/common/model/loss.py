"""Cross entropy of labelled tokens only, without materialising the logits of the whole row."""

from typing import Any

import torch
from torch.autograd import Function

from stages.common.model.packs import IGNORED

# Tokens whose logits exist at a time: 128 x 49,152 x 4 bytes is 25 MB; from 32 MB on the C library takes new pages from
# the system each time
CHUNK_TOKENS = 128


class HeadLoss(Function):
    """Summed cross entropy of softmax(hidden W^T), with the gradient computed in the forward pass, chunk by chunk.

    W may have a wider dtype than `hidden`: products are made in W's. The head is frozen, so only `hidden` gets a
    gradient; logits are never kept (as in arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, needs_gradient: bool
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        products = weight.new_empty((min(CHUNK_TOKENS, len(targets)), len(weight)))
        for at in range(0, len(targets), CHUNK_TOKENS):
            part, wanted = (
                hidden[at : at + CHUNK_TOKENS].to(weight.dtype),
                targets[at : at + CHUNK_TOKENS, None],
            )
            logits = torch.mm(part, weight.t(), out=products[: len(part)])
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            total -= log_p.gather(1, wanted).sum()
            if gradient is not None:  # the logits' gradient: p - 1 for the target token, p for the others
                d_logits = log_p.exp_().scatter_add_(1, wanted, log_p.new_full(wanted.shape, -1.0))
                gradient[at : at + CHUNK_TOKENS] = d_logits.to(weight.dtype) @ weight
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradient is None:
            return None, None, None, None
        return (ctx.gradient * gradients[0]).to(ctx.gradient.dtype), None, None, None


def labelled_targets(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions in a row (1, tokens) whose next token has a label, and these labels.

    The token at position i is predicted at i - 1; no document's first token has a label, so none is predicted from
    the previous document.
    """
    targets = labels[0, 1:]
    positions = torch.nonzero(targets != IGNORED)[:, 0]
    return positions, targets[positions]
