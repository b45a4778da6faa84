"""Attention within each document of a row, registered with transformers as the implementation `documents`.

The forward pass of a model takes `lengths`, the tokens of each document in the row; no token sees another document.
transformers' own isolation (position_ids that restart) makes a mask over the whole row: the work grows with the
square of the row, of which a row of short documents needs a small part.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention

NAME = "documents"
# a row with a longer document goes to PyTorch's kernel: the probabilities kept for backward would be too many
DENSE_TOKENS = 1024
BLOCK_TOKENS = 256  # queries at a time


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
    share keys are stacked below each other, so that keys and values are never repeated; queries go in blocks, so that
    little is computed of what the causal mask removes.
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
        biases: dict[tuple[int, int], torch.Tensor] = {}
        probabilities = []
        for rows, columns in blocks(lengths):
            q, k, v = stacked(query[0, :, rows], groups), key[0, :, columns], value[0, :, columns]
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            if shape not in biases:
                biases[shape] = causal_bias(*shape, query.shape[1] // groups, query.dtype)
            scores = torch.baddbmm(biases[shape], q, k.transpose(1, 2), alpha=scale)
            p = torch.softmax(scores, dim=-1)
            output[0, rows] = unstacked(torch.bmm(p, v), shape[0])
            probabilities.append(p)
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *probabilities = ctx.saved_tensors
        groups, zero = key.shape[1], query.new_zeros(1)
        d_query, d_key, d_value = (token_major_zeros(t) for t in (query, key, value))
        for (rows, columns), p in zip(blocks(ctx.lengths), probabilities, strict=True):
            q, k, v = stacked(query[0, :, rows], groups), key[0, :, columns], value[0, :, columns]
            d_output = stacked(gradients[0][0, rows].transpose(0, 1), groups)
            d_value[0, :, columns] += torch.bmm(p.transpose(1, 2), d_output)
            d_p = torch.bmm(d_output, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            d_q = torch.baddbmm(zero, d_scores, k, beta=0, alpha=ctx.scale)
            d_query[0, :, rows] = unstacked(d_q, rows.stop - rows.start).transpose(0, 1)
            d_key[0, :, columns] += torch.baddbmm(zero, d_scores.transpose(1, 2), q, beta=0, alpha=ctx.scale)
        return d_query, d_key, d_value, None, None


def blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, at most `BLOCK_TOKENS` of one document, and the tokens each may look at."""
    start = 0
    for length in lengths:
        for at in range(start, start + length, BLOCK_TOKENS):
            end = min(at + BLOCK_TOKENS, start + length)
            yield slice(at, end), slice(start, end)
        start += length


def stacked(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, length, size) to (groups, heads/groups * length, size): heads of a group below each other."""
    return heads.reshape(groups, -1, heads.shape[-1])


def unstacked(rows: torch.Tensor, length: int) -> torch.Tensor:
    """(groups, heads/groups * length, size) to (length, heads, size)."""
    return rows.view(-1, length, rows.shape[-1]).transpose(0, 1)


def causal_bias(rows: int, columns: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """(repeats * rows, columns), for the last `rows` queries: 0 where one may look, minus infinity where not."""
    bias = torch.full((rows, columns), float("-inf"), dtype=dtype).triu_(1 + columns - rows)
    return bias.repeat(repeats, 1)


def token_major_zeros(like: torch.Tensor) -> torch.Tensor:
    """Zeros (1, heads, tokens, size) whose memory runs by token, as the projections before it want."""
    return torch.zeros_like(like.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
