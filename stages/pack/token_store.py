"""Tokenized documents: their tokens in a scratch file, written front to back and then mapped; the rest in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.pack.documents import TokenizedGroup


@dataclass
class StoredDocuments:
    """Document i is `starts[i] : starts[i + 1]` of `tokens`; the other columns have one value per document."""

    # ids of trained tokens, and ~id (negative) of tokens without loss
    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    row_ids: pa.Array
    # hash of each document's duplicate component
    components: npt.NDArray[np.uint64]
    characters: npt.NDArray[np.int64]
    # trained tokens
    labelled: npt.NDArray[np.int64]
    # the document is the first of its row
    first: npt.NDArray[np.bool_]
    # the tests or doctests of the document's row passed
    validated: npt.NDArray[np.bool_]

    def count(self, token: int, block: int = 1 << 22) -> int:
        """Return how often a token occurs (~id: without loss)."""
        starts = range(0, len(self.tokens), block)
        return sum(int(np.count_nonzero(self.tokens[at : at + block] == token)) for at in starts)


class TokenStore:
    """Takes the documents of row groups, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.row_ids: list[pa.Array] = [pa.array([], pa.string())]
        self.columns: list[tuple[npt.NDArray, ...]] = []

    def append(self, group: TokenizedGroup) -> None:
        self.file.write(group.tokens.tobytes())
        self.row_ids.append(pa.array(group.row_ids, pa.string()))
        starts = np.cumsum(group.lengths) - group.lengths
        labelled = np.add.reduceat(group.tokens >= 0, starts, dtype=np.int64) if len(starts) else starts
        columns = (group.lengths, group.components, group.characters, labelled, group.first, group.validated)
        self.columns.append(columns)

    def read(self) -> StoredDocuments:
        """Close the file and return all documents; nothing can be appended afterwards."""
        self.file.close()
        kinds = (np.int64, np.uint64, np.int64, np.int64, bool, bool)
        lengths, components, characters, labelled, first, validated = (
            np.concatenate([np.zeros(0, kind), *parts])
            for kind, parts in zip(
                kinds, zip(*self.columns, strict=True) if self.columns else [()] * len(kinds), strict=True
            )
        )
        return StoredDocuments(
            # an empty file cannot be mapped
            tokens=np.memmap(self.path, np.int32, "r") if lengths.sum() else np.zeros(0, np.int32),
            starts=np.concatenate([[0], np.cumsum(lengths)]),
            row_ids=pa.concat_arrays(self.row_ids),
            components=components,
            characters=characters,
            labelled=labelled,
            first=first,
            validated=validated,
        )
