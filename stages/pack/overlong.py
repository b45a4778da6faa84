"""Shorten rows of more tokens than a pack holds: drop them, cut them on the left, or split them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.text.tokens import Tokens

Document = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


@dataclass
class OverlongCost:
    """What the length limit cost, in rows and tokens."""

    # rows over the limit
    rows: int = 0
    # of these, rows of which nothing is left
    dropped: int = 0
    tokens_lost: int = 0
    # labels among these, and labels of tokens that are now the first of a document and cannot have one
    labelled_tokens_lost: int = 0

    def add(self, other: "OverlongCost") -> None:
        self.rows += other.rows
        self.dropped += other.dropped
        self.tokens_lost += other.tokens_lost
        self.labelled_tokens_lost += other.labelled_tokens_lost


class Shortened(NamedTuple):
    """Documents within the length limit: document i is `starts[i] : starts[i + 1]` of `ids` and `loss`."""

    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]
    # shape (documents + 1,)
    starts: npt.NDArray[np.int64]
    # index of the row that each document is from
    rows: npt.NDArray[np.int64]
    cost: OverlongCost


def shorten(tokens: Tokens, limit: int, mode: str, bos: int | None) -> Shortened:
    """Return documents of at most `limit` tokens, made of the whole documents of `tokens`.

    Args:
        mode: drop, truncate or split.
        bos: id of the BOS token, repeated at the start of each part; None if the tokenizer has none.
    """
    lengths = np.diff(tokens.starts)
    rows = np.flatnonzero(tokens.whole)
    fits = lengths[rows] <= limit
    if fits.all() and len(rows) == len(lengths):
        return Shortened(tokens.ids, tokens.loss, tokens.starts, rows, OverlongCost())
    ids: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    loss: list[npt.NDArray[np.bool_]] = [np.zeros(0, bool)]
    row_of: list[int] = []
    cost = OverlongCost(rows=int((~fits).sum()))
    for row, row_fits in zip(rows.tolist(), fits.tolist(), strict=True):
        span = slice(tokens.starts[row], tokens.starts[row + 1])
        documents = [(tokens.ids[span], tokens.loss[span])]
        if not row_fits:
            documents = shorten_document(*documents[0], limit, mode, bos)
            cost.dropped += not documents
            bos_tokens = int(tokens.ids[span][0] == bos)  # repeated in each document, but counted once
            left = sum(len(part) - bos_tokens for part, _ in documents) + (bos_tokens if documents else 0)
            cost.tokens_lost += len(tokens.ids[span]) - left
            cost.labelled_tokens_lost += int(
                tokens.loss[span].sum() - sum(part_loss.sum() for _, part_loss in documents)
            )
        for part, part_loss in documents:
            ids.append(part)
            loss.append(part_loss)
            row_of.append(row)
    starts = np.zeros(len(row_of) + 1, np.int64)
    np.cumsum([len(part) for part in ids[1:]], out=starts[1:])
    return Shortened(np.concatenate(ids), np.concatenate(loss), starts, np.array(row_of, np.int64), cost)


def shorten_document(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, mode: str, bos: int | None
) -> list[Document]:
    """Return the documents that replace one that is too long; none if it is dropped."""
    if mode == "truncate":
        return truncate_document(ids, loss, limit, bos)
    return split_document(ids, loss, limit, bos) if mode == "split" else []


def truncate_document(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, bos: int | None
) -> list[Document]:
    """Cut tokens after BOS until the document fits; return nothing if that would cut into the last answer.

    The first token has no label, so BOS or some of the prompt must remain before the answer.
    """
    bos_tokens = int(len(ids) > 0 and ids[0] == bos)
    begin = len(ids) - (limit - bos_tokens)
    answer = int(np.flatnonzero(~loss)[-1]) + 1 if not loss.all() else 0
    if begin + (1 - bos_tokens) > answer:
        return []
    return [slice_after_bos(ids, loss, bos_tokens, begin, len(ids))]


def split_document(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, bos: int | None
) -> list[Document]:
    """Split into documents of equal length, give or take a token, each after BOS if there is one.

    Parts without labels are left out.
    """
    bos_tokens = int(len(ids) > 0 and ids[0] == bos)
    parts = -(-(len(ids) - bos_tokens) // (limit - bos_tokens))
    cuts = np.linspace(bos_tokens, len(ids), parts + 1).round().astype(int)
    documents = [slice_after_bos(ids, loss, bos_tokens, a, b) for a, b in pairwise(cuts.tolist())]
    return [(part, part_loss) for part, part_loss in documents if part_loss.any()]


def slice_after_bos(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], bos_tokens: int, begin: int, end: int
) -> Document:
    """Return the first `bos_tokens` tokens followed by `begin : end`; the first token has no label."""
    part_loss = np.concatenate([loss[:bos_tokens], loss[begin:end]])
    part_loss[0] = False
    return np.concatenate([ids[:bos_tokens], ids[begin:end]]), part_loss
