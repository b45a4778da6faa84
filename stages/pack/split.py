"""The validation split: whole components of near duplicates, chosen by hash."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
NONE: Hashes = np.zeros(0, np.uint64)


class Split(NamedTuple):
    """Which documents are held out, by the hash of their component."""

    share: float = 0.0  # those whose hash, as a number in [0, 1), is below it,
    never: Hashes = NONE  # but for these,
    always: Hashes = NONE  # and with these

    def held_out(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        below = hashes / 2.0**64 < self.share
        return (below & ~np.isin(hashes, self.never)) | np.isin(hashes, self.always)


def validation_split(parts: Sequence[Hashes], share: float) -> Split:
    """Components held out, of the component of each document.

    A component is held out when its hash says so, whatever other documents there are; so one that comes or goes moves no
    other. One that alone is more than `share` of the documents stays in training. With `share` > 0 and two components or
    more, each side gets at least one. Memory is that of a part: what is more than a share of the whole is more than
    a share of some part.

    Args:
        parts: `hash_of` the component of each document, in parts of any size.
        share: share of documents to hold out, 0 to below 1; met on average.
    """
    parts = [part for part in parts if len(part)]
    if share == 0 or not parts or min(map(np.min, parts)) == max(map(np.max, parts)):
        return Split()
    large = large_components(parts, share)
    if all(np.isin(part, large).all() for part in parts):
        large = NONE
    split = Split(share, large)
    if not any(split.held_out(part).any() for part in parts):
        small = [part[~np.isin(part, large)] for part in parts]
        return Split(share, large, np.array([min(part.min() for part in small if len(part))], np.uint64))
    if all(split.held_out(part).all() for part in parts):
        return Split(share, np.append(large, max(map(np.max, parts))).astype(np.uint64))
    return split


def large_components(parts: Sequence[Hashes], share: float) -> Hashes:
    """Hashes of more than `share` of all documents, of two at least."""
    found = [NONE]
    for part in parts:
        values, counts = np.unique(part, return_counts=True)
        found.append(values[counts > share * len(part)])
    candidates = np.unique(np.concatenate(found))
    sizes = np.zeros(len(candidates), np.int64)
    for part in parts:
        at = np.searchsorted(candidates, part)
        at[at == len(candidates)] = 0
        if len(candidates):
            sizes += np.bincount(at[candidates[at] == part], minlength=len(candidates))
    return candidates[sizes > max(1.0, share * sum(map(len, parts)))]


def distinct(parts: Sequence[Hashes]) -> Iterator[Hashes]:
    """Every hash once, in rising order, about as many at a time as the largest part holds.

    All parts are read each time, for the hashes of one range: they are uniform, so that ranges hold about the same.
    """
    turns = -(-sum(map(len, parts)) // max([1, *map(len, parts)]))
    for turn in range(turns):
        low, high = (turn << 64) // turns, ((turn + 1) << 64) // turns - 1
        within = (part[(part >= low) & (part <= high)] if turns > 1 else part for part in parts)
        yield first_of_each(np.concatenate([first_of_each(hashes) for hashes in within]))


def first_of_each(values: Hashes) -> Hashes:
    """Sorted, each once; twice as fast as `numpy.unique` on a million."""
    values = np.sort(values)
    return values[np.diff(values, prepend=~values[:1]).astype(bool)]


def hash_of(component: str, seed: int) -> int:
    """64 bits, a pure function of its arguments, uniform over components."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{component}".encode()).digest()[:8], "big")
