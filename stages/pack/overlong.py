"""Shorten rows of more tokens than a pack holds: chats between exchanges, running text anywhere.

Of a text whose middle is filled in, the context is cut where it is farthest from the middle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Document(NamedTuple):
    """Tokens, and which of them are trained on."""

    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]


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
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def shorten_chat(
    row: dict[str, Any], encode: Callable[[dict[str, Any]], list[Document]], limit: int, every_answer: bool
) -> tuple[list[Document], int]:
    """Return documents of whole exchanges, each after the system messages, and how many tokens are kept.

    Args:
        encode: renders and tokenizes a row; [] if there is nothing to train on.
        every_answer: split into documents that hold as many exchanges as fit; otherwise only the last ones.
    """
    head, exchanges = split_exchanges(row["messages"])

    def part(numbers: range | list[int]) -> list[Document]:
        turns = [*head, *chain.from_iterable(exchanges[number] for number in numbers)]
        return encode({**row, "messages": turns})

    kept: list[int] = []
    documents: list[Document] = []
    if every_answer:
        first = 0
        while first < len(exchanges):
            end, best = first + 1, None
            while end <= len(exchanges) and within_limit(found := part(range(first, end)), limit):
                best, end = found, end + 1
            documents += best or []
            kept += range(first, end - 1) if best else []
            first = max(end - 1, first + 1)
    else:
        first = len(exchanges) - 1
        while first > 0 and within_limit(found := part(range(first, len(exchanges))), limit):
            documents, kept = found, [*range(first, len(exchanges))]
            first -= 1
    return documents, sum(len(one.ids) for one in part(kept)) if kept else 0


def within_limit(documents: list[Document], limit: int) -> bool:
    return all(len(one.ids) <= limit for one in documents)


def split_exchanges(messages: list[dict[str, Any]]) -> tuple[list[Any], list[list[Any]]]:
    """Return the leading system messages, and the exchanges: turns from a question up to the next one."""
    start = next((i for i, turn in enumerate(messages) if turn["role"] != "system"), len(messages))
    exchanges: list[list[Any]] = []
    answered = True
    for turn in messages[start:]:
        asks = turn["role"] in ("user", "system")
        if not exchanges or (asks and answered):
            exchanges.append([])
        exchanges[-1].append(turn)
        answered = not asks
    return messages[:start], exchanges


def shorten_text(document: Document, limit: int, mode: str, lead: int) -> list[Document]:
    """Return running text cut to the limit, each part after the `lead` tokens that the tokenizer puts first.

    truncate: cut the beginning of the prompt, or nothing is left if that would cut the completion. split: parts
    of equal length, give or take a token; parts without labels are left out.
    """
    ids, loss = document
    if mode == "truncate":
        begin = len(ids) - (limit - lead)
        answer = int(np.flatnonzero(~loss)[-1]) + 1
        # the first token has no label, so some of the prompt must remain before the completion
        return [] if begin + (lead == 0) > answer else [slice_after(document, lead, begin, len(ids))]
    parts = -(-(len(ids) - lead) // (limit - lead))
    cuts = np.linspace(lead, len(ids), parts + 1).round().astype(int)
    return [
        part for a, b in pairwise(cuts.tolist()) if (part := slice_after(document, lead, a, b)).loss.any()
    ]


def shorten_fill(document: Document, limit: int, marks: Sequence[int]) -> list[Document]:
    """Return a document whose middle is filled in, its context cut to the limit; [] if the rest is too long.

    The room for context is shared equally by the end of the prefix and the beginning of the suffix; what one
    does not need goes to the other.

    Args:
        marks: the ids before prefix, suffix and middle, which each occur once.
    """
    ids, loss = document
    prefix, suffix, middle = (int(np.flatnonzero(ids == mark)[0]) for mark in marks)
    labelled = int(np.flatnonzero(loss & (np.arange(len(ids)) > middle))[0])
    # suffix first: the prefix stands after the token before the middle
    start, stop = (prefix + 1, suffix) if suffix > prefix + 1 else (middle + 1, labelled)
    before, after = stop - start, middle - suffix - 1
    room = limit - (len(ids) - before - after)
    if room < 0:
        return []
    kept_after = min(after, max(room // 2, room - before))
    kept_before = min(before, room - kept_after)
    kept = np.ones(len(ids), bool)
    kept[start : stop - kept_before] = False
    kept[suffix + 1 + kept_after : middle] = False
    return [Document(ids[kept], loss[kept])]


def slice_after(document: Document, lead: int, begin: int, end: int) -> Document:
    """Return the first `lead` tokens followed by `begin : end`; the first token has no label."""
    ids, loss = (np.concatenate([values[:lead], values[begin:end]]) for values in document)
    loss[0] = False
    return Document(ids, loss)
