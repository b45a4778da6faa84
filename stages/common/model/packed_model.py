"""A causal language model that takes packs of documents and returns their loss."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stages.common.model.loss import Head, HeadLoss, head_of, labelled_targets
from stages.common.model.products import is_widened, product_dtype


class PackedModel(nn.Module):
    """A causal language model that takes rows from `flatten_packs`, on any device.

    A model that does not keep the documents of a row apart (see trial.py), and any model on documents so
    long that their rope differs, reads one document at a time.

    Args:
        model: a transformers model, or a PeftModel around it.
        attention: `train.attention`.
    """

    def __init__(self, model: nn.Module, attention: str = "auto") -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        self.longest_together = longest_together(self.causal.config)
        self._head: Head | None = None

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
        ids, positions = input_ids.to(self.device), position_ids.to(self.device)
        alone = reads_alone(self.causal)
        together = not alone and max(lengths) <= self.longest_together
        states, start = [], 0
        for run in [tuple(lengths)] if together else [(length,) for length in lengths]:
            part, start = slice(start, start + sum(run)), start + sum(run)
            options: dict[str, Any] = (
                {}
                if alone
                else {
                    "position_ids": positions[:, part],
                    "lengths": run,
                    "attention": self.attention,
                }
            )
            output = self.causal.base_model(input_ids=ids[:, part], use_cache=False, **options)
            states.append(output.last_hidden_state)
        return torch.cat(states, dim=1) if len(states) > 1 else states[0]

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: Sequence[int],
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the cross entropy summed over the labelled tokens, float32, in nats.

        Args:
            weights: how much each token of the row (1, tokens) counts as a target; None: 1.
        """
        positions, targets = labelled_targets(labels.to(self.device))
        states = self.hidden(input_ids, position_ids, lengths)[0, positions]
        if weights is not None:
            weights = weights.to(self.device)[0, 1:][positions]
        return HeadLoss.apply(states, self.head(), targets, torch.is_grad_enabled(), weights)

    def head(self) -> Head:
        """Return the frozen head, its weight in the dtype of products; a widened copy is cached."""
        head = head_of(self.causal)
        if not is_widened(head.weight):
            return head
        if self._head is None:
            wide = product_dtype(head.weight.dtype, head.weight.device)
            self._head = replace(head, weight=head.weight.detach().to(wide))
        return self._head


def reads_alone(causal: Any) -> bool:
    """Return whether a model from `load_frozen_model` reads one document at a time."""
    return getattr(causal, "reads_alone", False)


def longest_together(config: Any) -> float:
    """Return the tokens up to which a document leaves the rope of others in its row alone.

    Past `original_max_position_embeddings`, longrope (Phi-3) rotates a whole row by other factors.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else math.inf


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
