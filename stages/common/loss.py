"""Cross entropy of labelled tokens only, without the logits of the whole row."""

from typing import Any

import torch
from torch.autograd import Function

from stages.common.packs import IGNORED
from stages.common.products import product_dtype

CHUNK = 256  # tokens whose logits exist at a time: 256 x 49,152 x 4 bytes is 50 MB


class HeadLoss(Function):
    """Summed cross entropy of softmax(hidden W^T), the gradient made in the forward pass, a chunk at a time.

    The head is frozen, so only `hidden` gets a gradient; logits are never kept (as in arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, needed: bool
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needed else None
        kind = product_dtype(hidden.dtype, hidden.device)
        head = weight.to(kind)
        products = hidden.new_empty((min(CHUNK, len(targets)), len(weight)), dtype=kind)
        for at in range(0, len(targets), CHUNK):
            part, wanted = hidden[at : at + CHUNK].to(kind), targets[at : at + CHUNK, None]
            logits = torch.mm(part, head.t(), out=products[: len(part)]).float()
            highest = logits.amax(dim=-1, keepdim=True)
            scores = logits.gather(1, wanted) - highest
            summed = logits.sub_(highest).exp_().sum(dim=-1, keepdim=True)
            total += (summed.log() - scores).sum()
            if (
                gradient is not None
            ):  # summed times that of the logits: p - 1 for the token that came, p for others
                d_logits = logits.scatter_add_(1, wanted, -summed).to(kind)
                gradient[at : at + CHUNK] = (d_logits @ head).div_(summed)
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradient is None:
            return None, None, None, None
        return (ctx.gradient * gradients[0]).to(ctx.gradient.dtype), None, None, None


def labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions whose next token has a label, and these labels, of a row (1, tokens).

    The token at position i is predicted at i - 1; no document's first token has a label, so none is predicted from
    the document before it.
    """
    targets = labels[0, 1:]
    positions = torch.nonzero(targets != IGNORED)[:, 0]
    return positions, targets[positions]
