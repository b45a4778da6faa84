"""Rows of more tokens than a pack holds: dropped, cut on the left, or split into several documents."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.text.tokens import Tokens


@dataclass
class Cost:
    """What the length limit cost, in rows and tokens."""

    rows: int = 0  # that were over it
    dropped: int = 0  # of which nothing is left
    tokens_lost: int = 0
    labelled_tokens_lost: int = 0  # of these, or of a document's first token, which can have no label

    def add(self, other: "Cost") -> None:
        self.rows += other.rows
        self.dropped += other.dropped
        self.tokens_lost += other.tokens_lost
        self.labelled_tokens_lost += other.labelled_tokens_lost


class Shortened(NamedTuple):
    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]  # of shape (documents + 1,)
    rows: npt.NDArray[np.int64]  # of each document, the row that it is made of
    cost: Cost


def shorten(tokens: Tokens, limit: int, mode: str, bos: int | None) -> Shortened:
    """Documents of at most `limit` tokens of those of `tokens` that are whole; `mode`: drop, truncate or split."""
    lengths = np.diff(tokens.starts)
    rows = np.flatnonzero(tokens.whole)
    fits = lengths[rows] <= limit
    if fits.all() and len(rows) == len(lengths):
        return Shortened(tokens.ids, tokens.loss, tokens.starts, rows, Cost())
    ids: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    loss: list[npt.NDArray[np.bool_]] = [np.zeros(0, bool)]
    kept: list[int] = []
    cost = Cost(rows=int((~fits).sum()))
    for row, fit in zip(rows.tolist(), fits.tolist(), strict=True):
        its = slice(tokens.starts[row], tokens.starts[row + 1])
        documents = [(tokens.ids[its], tokens.loss[its])]
        if not fit:
            documents = shorter(*documents[0], limit, mode, bos)
            cost.dropped += not documents
            head = int(tokens.ids[its][0] == bos)  # in each document again
            left = sum(len(each) - head for each, _ in documents) + (head if documents else 0)
            cost.tokens_lost += len(tokens.ids[its]) - left
            cost.labelled_tokens_lost += int(
                tokens.loss[its].sum() - sum(each.sum() for _, each in documents)
            )
        for one, trained in documents:
            ids.append(one)
            loss.append(trained)
            kept.append(row)
    starts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum([len(one) for one in ids[1:]], out=starts[1:])
    return Shortened(np.concatenate(ids), np.concatenate(loss), starts, np.array(kept, np.int64), cost)


Document = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


def shorter(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, mode: str, bos: int | None
) -> list[Document]:
    """The documents that are made of one that is too long; none where it is dropped."""
    if mode == "truncate":
        return truncated(ids, loss, limit, bos)
    return split(ids, loss, limit, bos) if mode == "split" else []


def truncated(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, bos: int | None
) -> list[Document]:
    """One document without the beginning of what it had behind BOS; none where its last answer would be cut.

    The first token has no label, so that something of the prompt, or BOS, must be left before the answer.
    """
    head = int(len(ids) > 0 and ids[0] == bos)
    begin = len(ids) - (limit - head)
    answer = int(np.flatnonzero(~loss)[-1]) + 1 if not loss.all() else 0
    if begin + (1 - head) > answer:
        return []
    return [headed(ids, loss, head, begin, len(ids))]


def split(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], limit: int, bos: int | None
) -> list[Document]:
    """Documents of equal length, give or take a token, each behind BOS where there is one; those to train on."""
    head = int(len(ids) > 0 and ids[0] == bos)
    parts = -(-(len(ids) - head) // (limit - head))
    cuts = np.linspace(head, len(ids), parts + 1).round().astype(int)
    made = [headed(ids, loss, head, a, b) for a, b in pairwise(cuts.tolist())]
    return [(one, trained) for one, trained in made if trained.any()]


def headed(
    ids: npt.NDArray[np.int32], loss: npt.NDArray[np.bool_], head: int, begin: int, end: int
) -> Document:
    """`begin : end` behind the first `head` tokens."""
    trained = np.concatenate([loss[:head], loss[begin:end]])
    trained[0] = False
    return np.concatenate([ids[:head], ids[begin:end]]), trained
