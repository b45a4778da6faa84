"""Figures of a packing, for reports/pack.json."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.pack.packing import Packing, fewest_packs
from stages.pack.token_store import Documents

BINS = 32  # of the histogram of document lengths


class Measures:
    """Rows, tokens and how well the packs are used, of one split; added up over its shards."""

    def __init__(self, capacity: int, max_documents: int) -> None:
        self.capacity, self.max_documents = capacity, max_documents
        self.rows = self.documents = self.components = self.packs = 0
        self.tokens = self.labelled = self.characters = self.halves = 0
        self.width = -(-capacity // BINS)
        self.edges = list(range(self.width, capacity + self.width, self.width))
        self.bins = {name: np.zeros(len(self.edges), np.int64) for name in ("rows", "packs")}
        self.by_documents = np.zeros(0, np.int64)

    def add(
        self,
        documents: Documents,
        chosen: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        packing: Packing,
    ) -> None:
        """One shard: `packing` is of the documents `chosen`, of these lengths."""
        self.rows += int(documents.first[chosen].sum())
        self.documents += len(chosen)
        self.packs += len(packing)
        self.tokens += int(lengths.sum())
        self.labelled += int(documents.labelled[chosen].sum())
        self.characters += int(documents.characters[chosen].sum())
        self.halves += int((2 * lengths > self.capacity).sum())
        if len(chosen):
            filled = np.add.reduceat(lengths[packing.order], packing.starts[:-1])
            self.bins["rows"] += self.binned(lengths)
            self.bins["packs"] += self.binned(filled)
            counts = np.bincount(np.diff(packing.starts), minlength=len(self.by_documents))
            counts[: len(self.by_documents)] += self.by_documents
            self.by_documents = counts

    def binned(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.bincount((lengths - 1) // self.width, minlength=len(self.edges))

    def figures(self) -> dict[str, Any]:
        fewest = fewest_packs(self.tokens, self.documents, self.halves, self.capacity, self.max_documents)
        return {
            "rows": self.rows,
            "documents": self.documents,
            "components": self.components,
            "packs": self.packs,
            "fewest_packs": fewest,  # no packing has less
            "tokens": self.tokens,
            "labelled_tokens": self.labelled,
            "labelled_share": ratio(self.labelled, self.tokens),
            "utilisation": ratio(self.tokens, self.packs * self.capacity),
            "utilisation_bound": ratio(self.tokens, fewest * self.capacity),
            "documents_per_pack": ratio(self.documents, self.packs),
            "characters_per_token": ratio(self.characters, self.tokens),
        }

    def histograms(self) -> dict[str, Any]:
        """Counts for pictures: documents by length (`tokens`: upper edges of bins), packs by documents and by tokens."""
        return {
            "tokens": self.edges,
            **{name: counts.tolist() for name, counts in self.bins.items()},
            "packs_by_documents": self.by_documents[1:].tolist(),
        }


def ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
