"""NEFTune: noise on the embeddings during training (arXiv:2310.05914), scaled to each document of a row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class EmbeddingNoise:
    """A forward hook of the embeddings that adds uniform noise of alpha / sqrt(L d) in training mode.

    L is the document's length in tokens and d the size of an embedding, so a document's noise has the same expected
    norm whatever its length, as in the paper, where a row is one document. transformers' own hook takes L from the
    row: a document of 128 tokens in a row of 2,048 would get a quarter of its noise, and a different amount with
    another micro batch.
    """

    def __init__(self, embeddings: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: Sequence[int] = ()  # tokens of each document of the next row, set by the trainer
        embeddings.register_forward_hook(self)

    def __call__(self, embeddings: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Add noise to embeddings (1, tokens, size) in training; return them unchanged otherwise."""
        if not embeddings.training:
            return output
        sizes = [
            self.alpha / (length * output.shape[-1]) ** 0.5 for length in self.lengths for _ in range(length)
        ]
        size = torch.tensor(sizes, dtype=output.dtype).to(output.device)
        return output + torch.empty_like(output).uniform_(-1, 1) * size[None, :, None]
