"""Best-fit-decreasing bin packing of document lengths, over the histogram of the lengths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Packing:
    """Pack p holds the documents `order[starts[p] : starts[p + 1]]`, in this order."""

    order: npt.NDArray[np.int64]  # indices of documents, each once
    starts: npt.NDArray[np.int64]  # of shape (packs + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1


class Rooms:
    """Open packs by the room left in them; the last one added is taken first."""

    def __init__(self, capacity: int) -> None:
        self.stacks: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(capacity + 1)]
        self.bits = 0  # bit r: some pack has exactly r tokens of room

    def push(self, room: int, packs: npt.NDArray[np.int64]) -> None:
        if room and len(packs):
            self.stacks[room].append(packs)
            self.bits |= 1 << room

    def least(self, length: int) -> int:
        """Return the least room of at least `length` that some pack has; 0: none."""
        fitting = self.bits >> length
        return length + (fitting & -fitting).bit_length() - 1 if fitting else 0

    def take(self, room: int) -> npt.NDArray[np.int64]:
        """Remove and return all packs with this room, the last one added first."""
        self.bits ^= 1 << room
        packs = np.concatenate(self.stacks[room])[::-1]
        self.stacks[room] = []
        return packs


def pack_lengths(lengths: npt.ArrayLike, capacity: int, max_documents: int = 0) -> Packing:
    """Pack documents, longest first, each into the fullest pack that still has room for it.

    It uses at most 11/9 of the fewest possible packs, plus one (Johnson 1973); for documents much shorter
    than the capacity nearly always the fewest. Ties go to the earlier document and the most recently changed
    pack, so the result depends on the lengths alone.

    Documents of one length are placed at once. A pack with the least sufficient room takes them until it has
    too little left, for nothing fits better meanwhile; then come the others of the same room. What a pack has
    left after it was visited is less than half, so there are at most about 2 lengths log2(capacity) visits,
    whatever the documents; the rest is sorting.

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
    sizes = np.bincount(lengths, minlength=capacity + 1)
    longest_first = stable_order(capacity - lengths, capacity)
    pack_of = assign_packs(sizes, capacity, max_documents or len(lengths))
    packs = int(pack_of.max()) + 1 if len(pack_of) else 0
    order = longest_first[stable_order(pack_of, packs)]
    starts = np.zeros(packs + 1, np.int64)
    np.cumsum(np.bincount(pack_of, minlength=packs), out=starts[1:])
    return Packing(order, starts)


def assign_packs(sizes: npt.NDArray[np.int64], capacity: int, most: int) -> npt.NDArray[np.int64]:
    """Return the pack of each document, longest first; `sizes[n]`: number of documents of n tokens."""
    rooms, opened = Rooms(capacity), 0
    documents = np.zeros(int(sizes.sum()) if len(sizes) else 0, np.int64)  # of each pack that is open
    placed: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for length in np.flatnonzero(sizes)[::-1].tolist():
        left = int(sizes[length])
        while left:
            room = rooms.least(length)
            if room:
                packs = rooms.take(room)
            else:
                room = capacity
                new = -(-left // min(most, capacity // length))
                packs = np.arange(opened, opened + new)
                opened += new
            takes = np.minimum(room // length, most - documents[packs])
            ends = np.cumsum(takes)
            last = int(np.searchsorted(ends, left))  # the pack that gets the last document, if there is one
            used, over = packs[: last + 1], packs[last + 1 :]
            takes = takes[: last + 1]
            if last < len(packs):
                takes[last] -= ends[last] - left
            placed.append(np.repeat(used, takes))
            left -= int(takes.sum())
            documents[used] += takes
            rooms.push(room, over[::-1])
            push_back(rooms, used, room - takes * length, documents[used] < most)
    return np.concatenate(placed)


def push_back(
    rooms: Rooms, packs: npt.NDArray[np.int64], left: npt.NDArray[np.int64], is_open: npt.NDArray[np.bool_]
) -> None:
    """Push back the packs that may take more; all visited ones have the same room left, except the last."""
    packs, left = packs[is_open], left[is_open]
    if len(packs) and left[-1] != left[0]:
        rooms.push(int(left[-1]), packs[-1:])
        packs, left = packs[:-1], left[:-1]
    if len(packs):
        rooms.push(int(left[0]), packs)


def stable_order(keys: npt.NDArray[np.int64], largest: int) -> npt.NDArray[np.int64]:
    """Return indices that sort `keys` (0 to `largest`) stably; numpy sorts 16-bit keys by radix."""
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    if largest > 0xFFFF:
        order = order[stable_order(keys[order] >> 16, largest >> 16)]
    return order


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
