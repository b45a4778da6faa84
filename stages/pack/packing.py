"""Best-fit-decreasing bin packing of document lengths."""

from collections.abc import Sequence


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack documents, longest first, each into the fullest pack that still has room for it.

    Uses at most 11/9 of the fewest packs possible, plus one (Johnson 1973); on documents much shorter than the
    capacity it is nearly always the fewest. Ties go to the earlier document and the pack that got there last,
    so the result is a function of the lengths alone. Time: a sort, and one lookup in a bit set a document.

    Args:
        lengths: tokens of each document, each from 1 to `capacity`.
        capacity: tokens a pack holds.

    Returns:
        indices into `lengths`, one list a pack, in the order in which packs were opened.

    Raises:
        ValueError: a length is out of range.
    """
    packs: list[list[int]] = []
    open_packs: list[list[int]] = [[] for _ in range(capacity + 1)]  # by the room that is left in them
    rooms = 0  # bit r: some pack has exactly r tokens of room
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 1 <= length <= capacity:
            raise ValueError(f"document {index} has {length} tokens; a pack holds 1 to {capacity}")
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1  # the least room that is enough
            pack = open_packs[room].pop()
            if not open_packs[room]:
                rooms ^= 1 << room
        else:
            room, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(index)
        if room > length:
            open_packs[room - length].append(pack)
            rooms |= 1 << (room - length)
    return packs


def fewest_packs(lengths: Sequence[int], capacity: int) -> int:
    """A lower bound on the packs of any packing: all tokens, or documents over half a pack, whichever is more."""
    return max(-(-sum(lengths) // capacity), sum(2 * length > capacity for length in lengths))
