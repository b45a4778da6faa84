"""Attention within each document of a row, registered with transformers as the implementation `documents`.

The forward pass of a model takes `lengths`, the tokens of each document in the row, and `attention`, the way to compute
it (`train.attention`); no token sees another document. transformers' own isolation (position_ids that restart) makes
a mask over the whole row: the work grows with the square of the row, of which a row of short documents needs a small
part.

What a layer keeps for backward beside queries, keys and values: `dense` the probabilities, for each head and document
of n tokens about n * (n + BLOCK_TOKENS) / 2 numbers (n^2 for one of up to BLOCK_TOKENS); the others their output and a
number a token and head. With gradient checkpointing all of it is made again, a layer at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd import Function

from stages.common.attention_kernels import Documents, flash, flash_takes, flex, sdpa
from stages.common.errors import UserError
from stages.common.products import product_dtype

NAME = "documents"
# a row with a longer document goes to PyTorch's kernel: the probabilities kept for backward would be too many
DENSE_TOKENS = 1024
# queries at a time: with fewer, less is computed that the causal mask removes, and probabilities stay small
BLOCK_TOKENS = 128


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    return DenseDocuments.apply(query, key, value, list(documents.lengths), documents.scale)


IMPLEMENTATIONS = {"dense": dense, "sdpa": sdpa, "flex": flex, "flash": flash}
DOES = {  # of the fields of Documents that not every one does
    "dense": (),
    "sdpa": ("window", "dropout"),
    "flex": ("window", "softcap"),
    "flash": ("window",),
}
# what else models ask of their attention
UNKNOWN_OPTIONS = ("position_bias", "s_aux", "attention_chunk_size")


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
    attention: str = "auto",
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within documents.

    Args:
        query: (1, heads, tokens, size). `key` and `value` may have fewer heads, a divisor of the queries'.
        lengths: tokens of each document, in order; their sum is the row's tokens.
        attention: one of `IMPLEMENTATIONS`, or auto.

    Returns:
        (1, tokens, heads, size), and None in the place of the weights.

    Raises:
        ValueError: the call is not one of a row of documents.
        UserError: the model asks for something that this attention does not do; ignoring it would change the model.
    """
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError("attention `documents` takes one row and no cache: use_cache=False")
    if attention_mask is not None:
        raise ValueError("attention `documents` takes no mask: documents are told by `lengths`")
    if lengths is None or sum(lengths) != query.shape[2]:
        raise ValueError(f"attention `documents` needs the lengths of a row of {query.shape[2]} tokens")
    for option in UNKNOWN_OPTIONS:
        if options.get(option) is not None:
            raise UserError(f"models/base: its attention uses {option}, which training does not do")
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UserError("models/base: its attention looks ahead, which training does not do")
    window = options.get("sliding_window")
    documents = Documents(
        lengths=tuple(lengths),
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=window if window is not None and max(lengths) > window else None,
        dropout=dropout,
        softcap=options.get("softcap"),
    )
    return IMPLEMENTATIONS[chosen(attention, query, documents)](query, key, value, documents), None


def chosen(attention: str, query: torch.Tensor, documents: Documents) -> str:
    """The implementation for these queries: the one that was asked for, or for auto the fastest that does what the
    layer needs.

    On a CPU: dense for short documents, sdpa for others. On CUDA: flash; sdpa where that does not go (float32, old
    GPUs, dropout); flex for capped scores.

    Raises:
        UserError: none does.
    """
    if attention != "auto":
        candidates = [attention]
    elif query.device.type == "cuda":
        candidates = [*(["flash"] if flash_takes(query) else []), "sdpa", "flex"]
    else:
        candidates = [*(["dense"] if max(documents.lengths) <= DENSE_TOKENS else []), "sdpa"]
    for candidate in candidates:
        if not lacking(candidate, documents):
            return candidate
    needs = ", ".join(lacking(candidates[-1], documents))
    raise UserError(
        f"train.attention={attention} on {query.device.type} does not do {needs}, which models/base needs for a row "
        f"whose longest document has {max(documents.lengths)} tokens. {advice(documents)}"
    )


def lacking(attention: str, documents: Documents) -> list[str]:
    """What the layer needs and the implementation does not do."""
    needed = {
        "window": documents.window is not None,
        "dropout": documents.dropout > 0,
        "softcap": documents.softcap is not None,
    }
    return [name for name, needs in needed.items() if needs and name not in DOES[attention]]


def advice(documents: Documents) -> str:
    able = [name for name in IMPLEMENTATIONS if not lacking(name, documents)]
    if able:
        return f"These do: {', '.join(able)} (flex and flash on CUDA alone)."
    return "None does: set attention_dropout to 0 in its config.json."


class DenseDocuments(Function):
    """softmax(scale Q K^T) V for short documents on a CPU, with the probabilities kept for backward.

    PyTorch's fused CPU kernel takes three to four times as long in its backward pass at 64 to 256 tokens. Queries of
    heads that share keys lie beside each other, so that keys and values are never repeated and a block of queries is a
    slice, which is copied nowhere; they go in blocks, so that little is computed of what the causal mask removes.
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
        groups = key.shape[1]
        q, k, v = (grouped(heads, groups) for heads in (query, key, value))
        output, zero, shared = torch.empty_like(q), q.new_zeros(1), query.shape[1] // groups
        masks: dict[int, torch.Tensor] = {}
        probabilities = []
        for rows, columns in blocks(lengths):
            length = rows.stop - rows.start
            if length not in masks:
                masks[length] = future(length, q).repeat_interleave(shared, dim=0)
            own, seen = slice(rows.start * shared, rows.stop * shared), k[:, columns]
            scores = torch.baddbmm(zero, q[:, own], seen.transpose(1, 2), beta=0, alpha=scale)
            scores[..., -length:] += masks[length]
            p = torch.softmax(scores, dim=-1)
            torch.bmm(p, v[:, columns], out=output[:, own])
            probabilities.append(p.to(query.dtype))
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return token_major(output, query)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *probabilities = ctx.saved_tensors
        groups, shared = key.shape[1], query.shape[1] // key.shape[1]
        given = gradients[0].transpose(1, 2)
        q, k, v, d_output = (grouped(heads, groups) for heads in (query, key, value, given))
        d_q, d_k, d_v, zero = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), q.new_zeros(1)
        for (rows, columns), kept in zip(blocks(ctx.lengths), probabilities, strict=True):
            p, own = kept.to(q.dtype), slice(rows.start * shared, rows.stop * shared)
            d_v[:, columns].baddbmm_(p.transpose(1, 2), d_output[:, own])
            d_p = torch.bmm(d_output[:, own], v[:, columns].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            torch.baddbmm(zero, d_scores, k[:, columns], beta=0, alpha=ctx.scale, out=d_q[:, own])
            d_k[:, columns].baddbmm_(d_scores.transpose(1, 2), q[:, own], alpha=ctx.scale)
        found = zip((d_q, d_k, d_v), (query, key, value), strict=True)
        return *(token_major(heads, like).transpose(1, 2) for heads, like in found), None, None


def blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, at most `BLOCK_TOKENS` of one document, and the tokens each may look at."""
    start = 0
    for length in lengths:
        for at in range(start, start + length, BLOCK_TOKENS):
            end = min(at + BLOCK_TOKENS, start + length)
            yield slice(at, end), slice(start, end)
        start += length


def grouped(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """(1, heads, tokens, size) to (groups, tokens * heads/groups, size), as a factor of products.

    A row for each token and head, those of a token beside each other: any run of tokens is a run of rows.
    """
    tokens, size = heads.shape[2:]
    rows = heads.new_empty(
        (groups, tokens, heads.shape[1] // groups, size), dtype=product_dtype(heads.dtype, heads.device)
    )
    return rows.copy_(heads[0].unflatten(0, (groups, -1)).transpose(1, 2)).flatten(1, 2)


def token_major(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What `grouped` made, to (1, tokens, heads, size) in the dtype of `like`, whose memory runs by token."""
    groups, _, size = rows.shape
    output = like.new_empty((1, like.shape[2], like.shape[1], size))
    output[0].unflatten(1, (groups, -1)).copy_(rows.unflatten(1, (like.shape[2], -1)).transpose(0, 1))
    return output


def future(length: int, like: torch.Tensor) -> torch.Tensor:
    """(length, length): minus infinity above the diagonal, where a query would look ahead, 0 elsewhere."""
    return like.new_full((length, length), float("-inf")).triu_(1)
