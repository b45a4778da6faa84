"""`dense`: attention within each document, for short documents on a CPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd import Function

from stages.common.model.attention.kernels import CACHED_ROWS, AttentionSpec
from stages.common.model.packs import document_starts
from stages.common.model.products import product_dtype

# Queries per block: small blocks waste less work on what the causal mask removes, and keep probabilities small
BLOCK_TOKENS = 128
# Documents are padded to one length where that adds fewer probabilities per head than this: about the cost of the
# calls for one more document
MAX_PADDING = 4096


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    return DenseDocuments.apply(query, key, value, spec.lengths, spec.scale)


class DenseDocuments(Function):
    """softmax(scale Q K^T) V for short documents on a CPU, with the probabilities kept for backward.

    PyTorch's fused CPU kernel takes three to four times as long in its backward pass at 64 to 256 tokens. Documents of
    similar length are computed together. Queries of heads that share keys are adjacent, so that keys and values are
    never repeated and a block of queries is a slice without a copy. Queries are computed in blocks, so that little work
    is spent on what the causal mask removes.
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
        layout, key_heads = lay_out_documents(lengths), key.shape[1]
        rows = [layout.arrange(heads) for heads in (query, key, value)]
        output = torch.empty_like(rows[0])
        probabilities = []
        for group in layout.groups:
            q, k, v = (group.gather(heads, key_heads) for heads in rows)
            attended, zero, shared = torch.empty_like(q), q.new_zeros(1), query.shape[1] // key_heads
            for own, visible, mask in group.blocks(shared, q.dtype):
                scores = torch.baddbmm(zero, q[:, own], k[:, visible].transpose(1, 2), beta=0, alpha=scale)
                scores[..., -mask.shape[1] :] += mask
                p = torch.softmax(scores, dim=-1)
                attended[:, own] = torch.bmm(p, v[:, visible])
                probabilities.append(p.to(query.dtype))
            group.scatter(attended, output, key_heads)
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.lengths, ctx.scale = lengths, scale
        return layout.restore(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *probabilities = ctx.saved_tensors
        layout, key_heads = lay_out_documents(ctx.lengths), key.shape[1]
        rows = [layout.arrange(heads) for heads in (query, key, value, gradients[0].transpose(1, 2))]
        outputs, kept = [torch.empty_like(heads) for heads in rows[:3]], iter(probabilities)
        for group in layout.groups:
            q, k, v, d_output = (group.gather(heads, key_heads) for heads in rows)
            d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            zero = q.new_zeros(1)
            for own, visible, _ in group.blocks(query.shape[1] // key_heads, q.dtype):
                p, d_own = next(kept).to(q.dtype), d_output[:, own]
                d_v[:, visible] += torch.bmm(p.transpose(1, 2), d_own)
                d_p = torch.bmm(d_own, v[:, visible].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
                d_q[:, own] = torch.baddbmm(zero, d_scores, k[:, visible], beta=0, alpha=ctx.scale)
                d_scores = d_scores.transpose(1, 2)
                d_k[:, visible] += torch.baddbmm(zero, d_scores, q[:, own], beta=0, alpha=ctx.scale)
            for computed, output in zip((d_q, d_k, d_v), outputs, strict=True):
                group.scatter(computed, output, key_heads)
        return *(layout.restore(output).transpose(1, 2) for output in outputs), None, None


@dataclass(frozen=True)
class PaddedGroup:
    """Documents that are computed together, each padded to the length of the longest.

    Padding follows a document's tokens, so the causal mask hides it from them; it is zero, so it adds nothing to the
    gradients of keys and values either.
    """

    # position of the first document in the arranged row
    start: int
    documents: int
    length: int

    def gather(self, rows: torch.Tensor, key_heads: int) -> torch.Tensor:
        """Copy (arranged tokens, heads, size) to (documents * key heads, length * heads/key heads, size).

        The dtype is that of products. There is a row for each token and head, those of a token adjacent: any run of
        tokens is a run of rows.
        """
        heads, size = rows.shape[1:]
        shape = (self.documents, key_heads, self.length, heads // key_heads, size)
        output = rows.new_empty(shape, dtype=product_dtype(rows.dtype, rows.device))
        return output.copy_(self._view(rows, key_heads).transpose(1, 2)).view(-1, *shape[2:]).flatten(1, 2)

    def scatter(self, computed: torch.Tensor, rows: torch.Tensor, key_heads: int) -> None:
        """Copy a result in the shape of `gather` back into the arranged row."""
        target = self._view(rows, key_heads)
        target.copy_(computed.view(self.documents, key_heads, self.length, -1, rows.shape[2]).transpose(1, 2))

    def _view(self, rows: torch.Tensor, key_heads: int) -> torch.Tensor:
        """Return this group's part of an arranged row: (documents, length, key heads, heads/key heads, size)."""
        own = rows[self.start : self.start + self.documents * self.length]
        return own.view(self.documents, self.length, key_heads, -1, rows.shape[2])

    def blocks(self, shared: int, dtype: torch.dtype) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Yield blocks of at most `BLOCK_TOKENS` queries: their rows, the visible keys, the mask of the last keys.

        Args:
            shared: queries of a token that share keys.
        """
        for at in range(0, self.length, BLOCK_TOKENS):
            end = min(at + BLOCK_TOKENS, self.length)
            yield slice(at * shared, end * shared), slice(0, end), causal_mask(end - at, shared, dtype)


@dataclass(frozen=True)
class DocumentLayout:
    """A row's documents arranged in groups of similar length, with padding."""

    groups: tuple[PaddedGroup, ...]
    # the token at each arranged position; None: the row keeps its order
    _sources: torch.Tensor | None
    # arranged positions that are padding
    _padding: torch.Tensor | None
    # the arranged position of each token
    _positions: torch.Tensor | None

    def arrange(self, heads: torch.Tensor) -> torch.Tensor:
        """Rearrange (1, heads, tokens, size) to (arranged tokens, heads, size)."""
        tokens = heads[0].transpose(0, 1)
        if self._sources is None or self._padding is None:
            return tokens.contiguous()
        return tokens.index_select(0, self._sources).index_fill_(0, self._padding, 0)

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """Rearrange (arranged tokens, heads, size) to (1, tokens, heads, size)."""
        return (rows if self._positions is None else rows.index_select(0, self._positions))[None]


@lru_cache(maxsize=CACHED_ROWS)
def lay_out_documents(lengths: tuple[int, ...]) -> DocumentLayout:
    """Group documents whose padding to one length costs less than a call of their own."""
    starts = document_starts(lengths)
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    members: list[list[int]] = []
    for number in longest_first:
        if not members or lengths[members[-1][0]] ** 2 - lengths[number] ** 2 > MAX_PADDING:
            members.append([])
        members[-1].append(number)
    groups: list[PaddedGroup] = []
    sources: list[int] = []
    padding: list[int] = []
    positions, start = torch.empty(sum(lengths), dtype=torch.int64), 0
    for numbers in members:
        length = lengths[numbers[0]]
        groups.append(PaddedGroup(start, len(numbers), length))
        for number in numbers:
            token, own = starts[number], lengths[number]
            positions[token : token + own] = torch.arange(start, start + own)
            sources += [*range(token, token + own), *[token] * (length - own)]
            padding += range(start + own, start + length)
            start += length
    if sources == list(range(len(sources))):
        return DocumentLayout(tuple(groups), None, None, None)
    padding_positions = torch.tensor(padding, dtype=torch.int64)
    return DocumentLayout(tuple(groups), torch.tensor(sources), padding_positions, positions)


@lru_cache(maxsize=2 * BLOCK_TOKENS)
def causal_mask(length: int, shared: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask (length * shared, length): minus infinity where a query would look ahead, 0 elsewhere."""
    mask = torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
    return mask.repeat_interleave(shared, dim=0)
