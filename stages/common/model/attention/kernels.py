"""Attention within the documents of a row by PyTorch's kernels: `sdpa`, `flex` and `flash`.

Each takes `query` (1, heads, tokens, size), `key` and `value` (1, key heads, tokens, size; key heads divide heads) and
an `AttentionSpec`, and returns (1, tokens, heads, size). What depends on the lengths alone is made once per row, not
once per layer, from lengths on the host: no layer waits for the GPU.

`flex` and `flash` are for CUDA, where they have not been run: tests check their calls for shapes, and their values with
PyTorch's uncompiled FlexAttention and with a stand-in of the same signature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

CACHED_ROWS = 8  # rows whose masks and boundaries stay cached: the micro batches in flight
FLASH_LARGEST_HEAD = 256  # head sizes of FlashAttention are multiples of 8 up to this


@dataclass(frozen=True)
class AttentionSpec:
    """What a layer needs from its attention."""

    # tokens of each document, in order
    lengths: tuple[int, ...]
    # of query times key
    scale: float
    # tokens that a query sees, its own included; None: all before it
    window: int | None = None
    # share of the probabilities that is dropped
    dropout: float = 0.0
    # scores become softcap * tanh(score / softcap)
    softcap: float | None = None
    # values have another size than queries and keys, as with DeepSeek's latent attention
    value_size: int | None = None


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    """PyTorch's scaled_dot_product_attention, one document after another."""
    parts = zip(*(t.split(spec.lengths, dim=2) for t in (query, key, value)), strict=True)
    outputs = [block for q, k, v in parts for block in sdpa_blocks(q, k, v, spec)]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def sdpa_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec
) -> Iterator[torch.Tensor]:
    """Yield the outputs of one document; if it exceeds the window, a window of queries at a time with their keys."""
    options: dict[str, Any] = {
        "dropout_p": spec.dropout,
        "scale": spec.scale,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    length, window = query.shape[2], spec.window
    if window is None or length <= window:
        yield scaled_dot_product_attention(query, key, value, is_causal=True, **options)
        return
    for at in range(0, length, window):
        rows = slice(at, min(at + window, length))
        seen = slice(max(0, at + 1 - window), rows.stop)
        mask = window_mask(rows.stop - rows.start, seen.stop - seen.start, window, query.device)
        yield scaled_dot_product_attention(
            query[:, :, rows], key[:, :, seen], value[:, :, seen], attn_mask=mask, **options
        )


@lru_cache(maxsize=CACHED_ROWS)
def window_mask(rows: int, columns: int, window: int, device: torch.device) -> torch.Tensor:
    """Return (rows, columns) for the last `rows` of `columns` tokens: True where the distance is 0 to window - 1."""
    at = torch.arange(columns, device=device)
    distance = at[columns - rows :, None] - at
    return (distance >= 0) & (distance < window)


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    """PyTorch's FlexAttention with a block mask: blocks in which no token sees another are skipped.

    Compiled on CUDA. On a CPU PyTorch runs it uncompiled, with all scores of the row, and without a backward pass.
    """
    output = flex_function(query.device.type)(
        query,
        key,
        value,
        score_mod=None if spec.softcap is None else softcap_score_mod(spec.softcap),
        block_mask=block_mask(spec.lengths, spec.window, query.device),
        scale=spec.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous()


@cache
def flex_function(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    if device == "cuda":
        return torch.compile(flex_attention)
    return flex_attention


@lru_cache(maxsize=CACHED_ROWS)
def block_mask(lengths: tuple[int, ...], window: int | None, device: torch.device) -> Any:
    """Return FlexAttention's mask of a row. Making it takes tokens^2 bytes for a moment: 270 MB for 16,384 tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    tokens = len(numbers)

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        seen = (numbers[query] == numbers[key]) & (query >= key)
        return seen if window is None else seen & (query - key < window)

    return create_block_mask(sees, None, None, tokens, tokens, device=device)


@cache
def softcap_score_mod(cap: float) -> Callable[..., Any]:
    """Return FlexAttention's score_mod for a cap; one function per cap, so that nothing is compiled twice."""

    def score_mod(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return cap * torch.tanh(score / cap)

    return score_mod


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    """PyTorch's FlashAttention-2 over documents of different lengths: bfloat16 or float16, on CUDA."""
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))  # (tokens, heads, size)
    starts, longest = document_boundaries(spec.lengths, query.device), max(spec.lengths)
    back = -1 if spec.window is None else spec.window - 1  # tokens before its own; -1: all
    output = flash_function()(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=spec.scale,
        window_size=(back, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[None]


def flash_function() -> Callable[..., Any]:
    """Return torch.nn.attention.varlen.varlen_attn."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@lru_cache(maxsize=CACHED_ROWS)
def document_boundaries(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return (documents + 1,), int32: the start of each document, and the row's length."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def flash_supports(query: torch.Tensor) -> bool:
    """Return whether FlashAttention-2 can compute these queries on their device."""
    size = query.shape[-1]
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and size % 8 == 0
        and size <= FLASH_LARGEST_HEAD
        and flash_available_on(query.device)
    )


@cache
def flash_available_on(device: torch.device) -> bool:
    """Return whether the GPU is Ampere or newer and PyTorch was built with FlashAttention."""
    return torch.backends.cuda.is_flash_attention_available() and (
        torch.cuda.get_device_capability(device) >= (8, 0)
    )
