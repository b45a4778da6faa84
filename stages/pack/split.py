"""Hold out a validation split: whole components of near duplicates, selected by hash."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
NO_HASHES: Hashes = np.zeros(0, np.uint64)


class Split(NamedTuple):
    """Which documents are held out, by the hash of their component."""

    # components whose hash, as a number in [0, 1), is below the share, are held out
    share: float = 0.0
    # exceptions, by hash: never and always held out
    never: Hashes = NO_HASHES
    always: Hashes = NO_HASHES

    def held_out(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        below = hashes / 2.0**64 < self.share
        return (below & ~np.isin(hashes, self.never)) | np.isin(hashes, self.always)


def validation_split(parts: Sequence[Hashes], share: float) -> Split:
    """Decide which components to hold out.

    The hash of a component decides, regardless of the other documents, so adding or removing one moves no
    other. A component of more than `share` of all documents stays in training. With `share` > 0 and at least
    two components, each side gets at least one. Memory is that of a part: a component of more than a share of
    all documents is more than that share of some part.

    Args:
        parts: `component_hash` of each document's component, in parts of any size.
        share: share of documents to hold out, 0 to below 1; met on average.
    """
    parts = [part for part in parts if len(part)]
    if share == 0 or not parts or min(map(np.min, parts)) == max(map(np.max, parts)):
        return Split()
    large = large_components(parts, share)
    if all(np.isin(part, large).all() for part in parts):
        large = NO_HASHES
    split = Split(share, large)
    if not any(split.held_out(part).any() for part in parts):
        small = [part[~np.isin(part, large)] for part in parts]
        return Split(share, large, np.array([min(part.min() for part in small if len(part))], np.uint64))
    if all(split.held_out(part).all() for part in parts):
        return Split(share, np.append(large, max(map(np.max, parts))).astype(np.uint64))
    return split


def large_components(parts: Sequence[Hashes], share: float) -> Hashes:
    """Return the hashes of components that hold more than `share` of all documents, and at least two."""
    large = [NO_HASHES]
    for part in parts:
        values, counts = np.unique(part, return_counts=True)
        large.append(values[counts > share * len(part)])
    candidates = np.unique(np.concatenate(large))
    sizes = np.zeros(len(candidates), np.int64)
    for part in parts:
        at = np.searchsorted(candidates, part)
        at[at == len(candidates)] = 0
        if len(candidates):
            sizes += np.bincount(at[candidates[at] == part], minlength=len(candidates))
    return candidates[sizes > max(1.0, share * sum(map(len, parts)))]


def component_hash(component: str, seed: int) -> int:
    """Return 64 bits that depend on the arguments alone and are uniform over components."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{component}".encode()).digest()[:8], "big")
