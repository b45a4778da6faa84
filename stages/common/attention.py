"""Attention within each document of a row, registered with transformers as the implementation `documents`.

The forward pass of a model takes `lengths`, the tokens of each document in the row; no token sees another document.
transformers' own isolation (position_ids that restart) makes a mask over the whole row: the work grows with the
square of the row, of which a row of short documents needs a small part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention

NAME = "documents"
# a row with a longer document goes to PyTorch's kernel: the probabilities kept for backward would be too many
DENSE_TOKENS = 1024


def register() -> None:
    """Make `attn_implementation="documents"` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, document_attention)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    lengths: Sequence[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within documents.

    Args:
        query: (1, heads, tokens, size). `key` and `value` may have fewer heads, a divisor of the queries'.
        lengths: tokens of each document, in order; their sum is the row's tokens. None: one document.

    Returns:
        (1, tokens, heads, size), and None in the place of the weights.

    Raises:
        ValueError: the model asks for something this attention does not do; ignoring it would change the model.
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError("attention `documents` takes one row and no cache: use_cache=False")
    if attention_mask is not None:
        raise ValueError("attention `documents` takes no mask: documents are told by `lengths`")
    for option in ("softcap", "position_bias", "s_aux"):
        if options.get(option) is not None:
            raise ValueError(f"attention `documents` does not do {option}, which this model needs")
    lengths = list(lengths) if lengths is not None else [query.shape[2]]
    window = options.get("sliding_window")
    if window is not None and max(lengths) > window:
        raise ValueError(
            f"a document of {max(lengths)} tokens is longer than the model's sliding window, {window}"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not dropout and max(lengths) <= DENSE_TOKENS:
        return DenseDocuments.apply(query, key, value, lengths, scale), None
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    gqa = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=gqa)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


class DenseDocuments(Function):
    """softmax(scale Q K^T) V for short documents on a CPU, with the probabilities kept for backward.

    PyTorch's fused CPU kernel takes three to four times as long in its backward pass at 64 to 256 tokens. Heads that
    share keys are stacked below each other, so that keys and values are never repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: list[int],
        scale: float,
    ) -> torch.Tensor:
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        groups = key.shape[1]
        biases: dict[int, torch.Tensor] = {}
        probabilities, at = [], 0
        for length in lengths:
            part = slice(at, at + length)
            q, k, v = stacked(query[0, :, part], groups), key[0, :, part], value[0, :, part]
            if length not in biases:
                biases[length] = causal_bias(length, query.shape[1] // groups, query.dtype)
            scores = torch.baddbmm(biases[length], q, k.transpose(1, 2), alpha=scale)
            p = torch.softmax(scores, dim=-1)
            output[0, part] = unstacked(torch.bmm(p, v), length)
            probabilities.append(p)
            at += length
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *probabilities = ctx.saved_tensors
        groups, at, zero = key.shape[1], 0, query.new_zeros(1)
        d_query, d_key, d_value = (token_major(t) for t in (query, key, value))
        for length, p in zip(ctx.lengths, probabilities, strict=True):
            part = slice(at, at + length)
            q, k, v = stacked(query[0, :, part], groups), key[0, :, part], value[0, :, part]
            d_output = stacked(gradients[0][0, part].transpose(0, 1), groups)
            d_value[0, :, part] = torch.bmm(p.transpose(1, 2), d_output)
            d_p = torch.bmm(d_output, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            d_q = torch.baddbmm(zero, d_scores, k, beta=0, alpha=ctx.scale)
            d_query[0, :, part] = unstacked(d_q, length).transpose(0, 1)
            d_key[0, :, part] = torch.baddbmm(zero, d_scores.transpose(1, 2), q, beta=0, alpha=ctx.scale)
            at += length
        return d_query, d_key, d_value, None, None


def stacked(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, length, size) to (groups, heads/groups * length, size): heads of a group below each other."""
    return heads.reshape(groups, -1, heads.shape[-1])


def unstacked(rows: torch.Tensor, length: int) -> torch.Tensor:
    """(groups, heads/groups * length, size) to (length, heads, size)."""
    return rows.view(-1, length, rows.shape[-1]).transpose(0, 1)


def causal_bias(length: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """(repeats * length, length): 0 where a token may look, minus infinity where it may not."""
    bias = torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
    return bias.repeat(repeats, 1)


def token_major(like: torch.Tensor) -> torch.Tensor:
    """An empty (1, heads, tokens, size) whose memory runs by token, as the projections before it want."""
    return torch.empty_like(like.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
