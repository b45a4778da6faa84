"""A causal language model that takes packs of documents and returns their loss."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stages.common.model.loss import HeadLoss, labelled_targets
from stages.common.model.products import is_widened, product_dtype


class PackedModel(nn.Module):
    """A causal language model that takes rows from `flatten_packs`, on any device.

    Args:
        model: a transformers model, or a PeftModel around it.
        attention: `train.attention`.
    """

    def __init__(self, model: nn.Module, attention: str = "auto") -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        self._head: torch.Tensor | None = None

    @property
    def causal(self) -> Any:
        get = getattr(self.model, "get_base_model", None)
        return get() if get else self.model

    @property
    def device(self) -> torch.device:
        return self.causal.device

    def hidden(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """Return the states before the head: (1, tokens, size)."""
        output = self.causal.base_model(
            input_ids=input_ids.to(self.device),
            position_ids=position_ids.to(self.device),
            lengths=tuple(lengths),
            attention=self.attention,
            use_cache=False,
        )
        return output.last_hidden_state

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: Sequence[int],
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Return the cross entropy summed over the labelled tokens, float32, in nats."""
        positions, targets = labelled_targets(labels.to(self.device))
        states = self.hidden(input_ids, position_ids, lengths)[0, positions]
        return HeadLoss.apply(states, self.head(), targets, torch.is_grad_enabled())

    def head(self) -> torch.Tensor:
        """Return the frozen head's weight (vocabulary, size) in the dtype of products; a widened copy is cached."""
        weight = self.causal.get_output_embeddings().weight
        if not is_widened(weight):
            return weight
        if self._head is None:
            self._head = weight.detach().to(product_dtype(weight.dtype, weight.device))
        return self._head


@torch.no_grad()
def mean_loss(model: PackedModel, rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean cross entropy over the labelled tokens of all rows, without dropout; None without labels."""
    was_training = model.training
    model.eval()
    try:
        tokens = sum(len(labelled_targets(row["labels"])[1]) for row in rows)
        total = sum(float(model(**row)) for row in rows)
    finally:
        model.train(was_training)
    return total / tokens if tokens else None
