"""Statistics of a packing, for reports/pack.json."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.pack.packing import Packing, fewest_packs
from stages.pack.token_store import StoredDocuments

BINS = 32  # of the histograms of document and pack lengths


class PackingStatistics:
    """Rows, tokens and utilisation of one split, summed over its shards."""

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
        documents: StoredDocuments,
        indices: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        packing: Packing,
    ) -> None:
        """Add one shard: `packing` packs the documents at `indices`, which have these `lengths`."""
        self.rows += int(documents.first[indices].sum())
        self.documents += len(indices)
        self.packs += len(packing)
        self.tokens += int(lengths.sum())
        self.labelled += int(documents.labelled[indices].sum())
        self.characters += int(documents.characters[indices].sum())
        self.halves += int((2 * lengths > self.capacity).sum())
        if len(indices):
            pack_tokens = np.add.reduceat(lengths[packing.order], packing.starts[:-1])
            self.bins["rows"] += self.count_bins(lengths)
            self.bins["packs"] += self.count_bins(pack_tokens)
            counts = np.bincount(np.diff(packing.starts), minlength=len(self.by_documents))
            counts[: len(self.by_documents)] += self.by_documents
            self.by_documents = counts

    def count_bins(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.bincount((lengths - 1) // self.width, minlength=len(self.edges))

    def figures(self) -> dict[str, Any]:
        fewest = fewest_packs(self.tokens, self.documents, self.halves, self.capacity, self.max_documents)
        return {
            "rows": self.rows,
            "documents": self.documents,
            "components": self.components,
            "packs": self.packs,
            "fewest_packs": fewest,  # lower bound on any packing
            "tokens": self.tokens,
            "labelled_tokens": self.labelled,
            "labelled_share": rounded_ratio(self.labelled, self.tokens),
            "utilisation": rounded_ratio(self.tokens, self.packs * self.capacity),
            "utilisation_bound": rounded_ratio(self.tokens, fewest * self.capacity),
            "documents_per_pack": rounded_ratio(self.documents, self.packs),
            "characters_per_token": rounded_ratio(self.characters, self.tokens),
        }

    def histograms(self) -> dict[str, Any]:
        """Return counts for plots: documents (`rows`) and packs by tokens, packs by number of documents."""
        return {
            "tokens": self.edges,  # upper edges of the bins
            **{name: counts.tolist() for name, counts in self.bins.items()},
            "packs_by_documents": self.by_documents[1:].tolist(),
        }


def rounded_ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
