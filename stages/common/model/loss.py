"""Cross entropy of labelled tokens only, without materialising the logits of the whole row."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function

from stages.common.model.packs import IGNORED

# Tokens whose logits exist at a time: 128 x 49,152 x 4 bytes is 25 MB; from 32 MB on the C library takes new pages from
# the system each time
CHUNK_TOKENS = 128


LOGIT_CAPS = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
)  # of Gemma 2, Griffin, xLSTM


@dataclass(frozen=True)
class Head:
    """What makes logits of the last states: z = scale * (states W^T + bias), and with a cap cap * tanh(z / cap)."""

    # W, (vocabulary, size), frozen; products are made in its dtype
    weight: torch.Tensor
    # (vocabulary,), frozen
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (tokens, vocabulary) of states (tokens, size); without a gradient."""
        logits = torch.mm(states.to(self.weight.dtype), self.weight.t(), out=out)
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1:
            logits *= self.scale
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def states_gradient(self, d_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the states from that of the logits."""
        if self.cap is not None:
            d_logits = d_logits * (1 - logits.float().div_(self.cap).square_())
        gradient = d_logits.to(self.weight.dtype) @ self.weight
        return gradient if self.scale == 1 else gradient.mul_(self.scale)


def head_of(causal: Any) -> Head:
    """Return the head of a transformers model, with what config.json says about it."""
    config, layer = causal.config.get_text_config(), causal.get_output_embeddings()
    factors = [
        getattr(config, name, None) or 1 for name in ("logit_scale", "lm_head_multiplier", "logits_scaling")
    ]
    caps = [getattr(config, name, None) for name in LOGIT_CAPS]
    return Head(
        layer.weight,
        getattr(layer, "bias", None),
        factors[0] * factors[1] / factors[2],
        next((cap for cap in caps if cap), None),
    )


class HeadLoss(Function):
    """Summed cross entropy of a head's logits, with the gradient computed in the forward pass, chunk by chunk.

    The head is frozen, so only `hidden` gets a gradient; logits are never kept (as in arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: Head,
        targets: torch.Tensor,
        needs_gradient: bool,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sum; `weights` (tokens,) says how much each target counts, None: 1."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        products = head.weight.new_empty((min(CHUNK_TOKENS, len(targets)), len(head.weight)))
        for at in range(0, len(targets), CHUNK_TOKENS):
            rows, wanted = slice(at, at + CHUNK_TOKENS), targets[at : at + CHUNK_TOKENS, None]
            logits = head.logits(hidden[rows], out=products[: len(wanted)])
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            chosen = log_p.gather(1, wanted)
            total -= (chosen if weights is None else chosen * weights[rows, None]).sum()
            if gradient is not None:  # the logits' gradient: p - 1 for the target token, p for the others
                d_logits = log_p.exp_().scatter_add_(1, wanted, log_p.new_full(wanted.shape, -1.0))
                if weights is not None:
                    d_logits *= weights[rows, None]
                gradient[rows] = head.states_gradient(d_logits, logits)
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradient is None:
            return None, None, None, None, None
        return (ctx.gradient * gradients[0]).to(ctx.gradient.dtype), None, None, None, None


def labelled_targets(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions in a row (1, tokens) whose next token has a label, and these labels.

    The token at position i is predicted at i - 1; no document's first token has a label, so none is predicted from
    the previous document.
    """
    targets = labels[0, 1:]
    positions = torch.nonzero(targets != IGNORED)[:, 0]
    return positions, targets[positions]
