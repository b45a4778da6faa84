"""Attention per document for short documents on a CPU: `dense`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd import Function

from stages.common.model.attention.kernels import CACHED_ROWS, AttentionSpec
from stages.common.model.packs import document_starts
from stages.common.model.products import product_dtype

# queries at a time: with fewer, less is computed that the causal mask removes, and probabilities stay small
BLOCK_TOKENS = 128
# documents are padded to one length where that adds fewer probabilities a head: about what the calls for one cost
MAX_PADDING = 4096


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: AttentionSpec
) -> torch.Tensor:
    return DenseDocuments.apply(query, key, value, documents.lengths, documents.scale)


class DenseDocuments(Function):
    """softmax(scale Q K^T) V for short documents on a CPU, with the probabilities kept for backward.

    PyTorch's fused CPU kernel takes three to four times as long in its backward pass at 64 to 256 tokens. Documents of
    about one length are computed together. Queries of heads that share keys lie beside each other, so that keys and values
    are never repeated and a block of queries is a slice, which is copied nowhere; they go in blocks, so that little is
    computed of what the causal mask removes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scale: float,
    ) -> torch.Tensor:
        order, groups = lay_out_documents(lengths), key.shape[1]
        rows = [order.laid(heads) for heads in (query, key, value)]
        output = torch.empty_like(rows[0])
        probabilities = []
        for alike in order.alike:
            q, k, v = (alike.grouped(heads, groups) for heads in rows)
            summed, zero, shared = torch.empty_like(q), q.new_zeros(1), query.shape[1] // groups
            for own, seen, mask in alike.blocks(shared, q):
                scores = torch.baddbmm(zero, q[:, own], k[:, seen].transpose(1, 2), beta=0, alpha=scale)
                scores[..., -mask.shape[1] :] += mask
                p = torch.softmax(scores, dim=-1)
                summed[:, own] = torch.bmm(p, v[:, seen])
                probabilities.append(p.to(query.dtype))
            alike.put(summed, output, groups)
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return order.taken(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *probabilities = ctx.saved_tensors
        order, groups = lay_out_documents(ctx.lengths), key.shape[1]
        rows = [order.laid(heads) for heads in (query, key, value, gradients[0].transpose(1, 2))]
        found, kept = [torch.empty_like(heads) for heads in rows[:3]], iter(probabilities)
        for alike in order.alike:
            q, k, v, d_output = (alike.grouped(heads, groups) for heads in rows)
            d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            zero = q.new_zeros(1)
            for own, seen, _ in alike.blocks(query.shape[1] // groups, q):
                p, d_own = next(kept).to(q.dtype), d_output[:, own]
                d_v[:, seen] += torch.bmm(p.transpose(1, 2), d_own)
                d_p = torch.bmm(d_own, v[:, seen].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
                d_q[:, own] = torch.baddbmm(zero, d_scores, k[:, seen], beta=0, alpha=ctx.scale)
                d_scores = d_scores.transpose(1, 2)
                d_k[:, seen] += torch.baddbmm(zero, d_scores, q[:, own], beta=0, alpha=ctx.scale)
            for summed, output in zip((d_q, d_k, d_v), found, strict=True):
                alike.put(summed, output, groups)
        return *(order.taken(output).transpose(1, 2) for output in found), None, None


@dataclass(frozen=True)
class PaddedGroup:
    """Documents that are computed together, each padded to the length of the longest.

    Padding lies behind a document's tokens, where the causal mask hides it from them; it is zero, so that it adds nothing
    to the gradients of keys and values either.
    """

    start: int  # where the first begins in the laid row
    documents: int
    length: int

    def grouped(self, rows: torch.Tensor, groups: int) -> torch.Tensor:
        """(laid tokens, heads, size) to (documents * groups, length * heads/groups, size), as a factor of products.

        A row for each token and head, those of a token beside each other: any run of tokens is a run of rows.
        """
        heads, size = rows.shape[1:]
        shape = (self.documents, groups, self.length, heads // groups, size)
        output = rows.new_empty(shape, dtype=product_dtype(rows.dtype, rows.device))
        return output.copy_(self._of(rows, groups).transpose(1, 2)).view(-1, *shape[2:]).flatten(1, 2)

    def put(self, computed: torch.Tensor, rows: torch.Tensor, groups: int) -> None:
        """The way back of `grouped`."""
        place = self._of(rows, groups)
        place.copy_(computed.view(self.documents, groups, self.length, -1, rows.shape[2]).transpose(1, 2))

    def _of(self, rows: torch.Tensor, groups: int) -> torch.Tensor:
        """This part of a laid row, (documents, length, groups, heads/groups, size)."""
        own = rows[self.start : self.start + self.documents * self.length]
        return own.view(self.documents, self.length, groups, -1, rows.shape[2])

    def blocks(self, shared: int, like: torch.Tensor) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Blocks of at most `BLOCK_TOKENS` queries: their rows, the keys they may look at, the mask of the last keys.

        Args:
            shared: queries of a token that share keys.
        """
        for at in range(0, self.length, BLOCK_TOKENS):
            end = min(at + BLOCK_TOKENS, self.length)
            yield slice(at * shared, end * shared), slice(0, end), causal_mask(end - at, shared, like.dtype)


@dataclass(frozen=True)
class DocumentLayout:
    """A row's documents in another order, those that are alike beside each other and padded."""

    alike: tuple[PaddedGroup, ...]
    _into: torch.Tensor | None  # the token that each laid token is; None: the row is laid as it is
    _padding: torch.Tensor | None  # laid tokens that are none
    _back: torch.Tensor | None  # where each token lies

    def laid(self, heads: torch.Tensor) -> torch.Tensor:
        """(1, heads, tokens, size) to (laid tokens, heads, size)."""
        tokens = heads[0].transpose(0, 1)
        if self._into is None or self._padding is None:
            return tokens.contiguous()
        return tokens.index_select(0, self._into).index_fill_(0, self._padding, 0)

    def taken(self, rows: torch.Tensor) -> torch.Tensor:
        """(laid tokens, heads, size) to (1, tokens, heads, size)."""
        return (rows if self._back is None else rows.index_select(0, self._back))[None]


@lru_cache(maxsize=CACHED_ROWS)
def lay_out_documents(lengths: tuple[int, ...]) -> DocumentLayout:
    """Which documents are computed together: those whose padding costs less than a call of its own would."""
    starts = document_starts(lengths)
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    parts: list[list[int]] = []
    for number in longest_first:
        if not parts or lengths[parts[-1][0]] ** 2 - lengths[number] ** 2 > MAX_PADDING:
            parts.append([])
        parts[-1].append(number)
    alike: list[PaddedGroup] = []
    into: list[int] = []
    padding: list[int] = []
    back, start = torch.empty(sum(lengths), dtype=torch.int64), 0
    for part in parts:
        length = lengths[part[0]]
        alike.append(PaddedGroup(start, len(part), length))
        for number in part:
            token, own = starts[number], lengths[number]
            back[token : token + own] = torch.arange(start, start + own)
            into += [*range(token, token + own), *[token] * (length - own)]
            padding += range(start + own, start + length)
            start += length
    if into == list(range(len(into))):
        return DocumentLayout(tuple(alike), None, None, None)
    return DocumentLayout(tuple(alike), torch.tensor(into), torch.tensor(padding, dtype=torch.int64), back)


@lru_cache(maxsize=2 * BLOCK_TOKENS)
def causal_mask(length: int, shared: int, dtype: torch.dtype) -> torch.Tensor:
    """(length * shared, length): minus infinity where a query would look ahead, 0 elsewhere."""
    mask = torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
    return mask.repeat_interleave(shared, dim=0)
