"""Hold out a validation split: whole components of related rows, selected by hash."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def validation_mask(components: Hashes, row_ids: Any, share: float) -> tuple[npt.NDArray[np.bool_], str]:
    """Decide which documents to hold out.

    The hash of a component decides, so adding or removing one moves no other. A component of more than
    `share` of all documents is too large to be held out. Where such hold less than half of the documents,
    they are trained on, and the share is taken from the rest; otherwise the rest would not stand for them,
    and they are split row by row. With `share` > 0 and at least two components, each side gets at least one.

    Args:
        components: `component_hash` of each document's component.
        row_ids: id of each document's row, a list or an Arrow array.
        share: share of documents to hold out, 0 to below 1; met on average.

    Returns:
        bool [documents], and a warning if a component is too large, else "".
    """
    size = len(components)
    if share == 0 or size == 0:
        return np.zeros(size, bool), ""
    _, inverse, counts = np.unique(components, return_inverse=True, return_counts=True)
    large = (counts > max(1.0, share * size))[inverse]
    many = int(large.sum())
    by_row = many > size / 2
    hashes, eligible = components, ~large | by_row
    if by_row:
        hashes = components.copy()
        hashes[large] = [
            component_hash(str(row_ids[place]), int(components[place]))
            for place in np.flatnonzero(large).tolist()
        ]
    rate = share if by_row or not many else share * size / (size - many)
    held_out = eligible & (hashes / 2.0**64 < rate)
    if not held_out.any():
        held_out = eligible & (hashes == hashes[eligible].min())
    if held_out.all():
        held_out = hashes != hashes.max()
    if not many:
        return held_out, ""
    what = "They stay in training, and the validation split is taken from the others"
    if by_row:
        what = (
            "They are split row by row, so rows of the validation split resemble rows that are trained on, and its "
            "loss is too low"
        )
    return held_out, (
        f"{many} of {size} documents are in groups of related rows (column `component` of data/clean) of more than "
        f"pack.validation_share={share:g} of all, the largest of {counts.max()}. {what}."
    )


def repeat_validated(
    indices: npt.NDArray[np.int64], validated: npt.NDArray[np.bool_], copies: int
) -> npt.NDArray[np.int64]:
    """Return the indices of documents to train on, `copies` times those whose rows passed their tests."""
    return np.repeat(indices, np.where(validated[indices], copies, 1))


def component_hash(component: str, seed: int) -> int:
    """Return 64 bits that depend on the arguments alone and are uniform over components."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{component}".encode()).digest()[:8], "big")
