"""Best-fit-decreasing bin packing of document lengths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Packing:
    """Pack p holds the documents `order[starts[p] : starts[p + 1]]`, in this order."""

    order: npt.NDArray[np.int64]  # indices of documents
    starts: npt.NDArray[np.int64]  # of shape (packs + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack_lengths(lengths: npt.ArrayLike, capacity: int, max_documents: int = 0) -> Packing:
    """Pack documents, longest first, each into the fullest pack that still has room for it.

    It uses at most 11/9 of the fewest possible packs, plus one (Johnson 1973); for documents much shorter
    than the capacity nearly always the fewest. Ties go to the earlier document and the most recently changed
    pack, so the result depends on the lengths alone.

    Args:
        lengths: tokens of each document, each from 1 to `capacity`.
        capacity: tokens a pack holds.
        max_documents: documents a pack holds; 0: any number.

    Returns:
        packs in the order in which they were opened, their documents longest first.

    Raises:
        ValueError: a length is out of range.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(wrong):
        raise ValueError(f"document {wrong[0]} has {lengths[wrong[0]]} tokens; a pack holds 1 to {capacity}")
    longest_first = np.argsort(-lengths, kind="stable")
    rooms: list[list[int]] = [[] for _ in range(capacity + 1)]  # open packs by the tokens of room left
    bits = 0  # bit r: some open pack has room r
    pack_of: list[int] = []
    documents: list[int] = []  # of each pack
    for length in lengths[longest_first].tolist():
        fitting = bits >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1  # the least that is enough
            pack = rooms[room].pop()
            bits ^= (not rooms[room]) << room
        else:
            room, pack = capacity, len(documents)
            documents.append(0)
        pack_of.append(pack)
        documents[pack] += 1
        if room > length and documents[pack] != max_documents:
            rooms[room - length].append(pack)
            bits |= 1 << room - length
    order = longest_first[np.argsort(np.array(pack_of, np.int64), kind="stable")]
    return Packing(order, np.concatenate([[0], np.cumsum(documents, dtype=np.int64)]))


def fewest_packs(tokens: int, documents: int, halves: int, capacity: int, max_documents: int = 0) -> int:
    """Return a lower bound on the packs of any packing.

    Args:
        tokens: tokens of all documents.
        documents: number of documents.
        halves: documents that fill more than half a pack; no two of them share one.
        capacity: tokens a pack holds.
        max_documents: documents a pack holds; 0: any number.
    """
    by_count = -(-documents // max_documents) if max_documents else 0
    return max(-(-tokens // capacity), halves, by_count)
