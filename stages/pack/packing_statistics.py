"""Statistics of a packing, for reports/pack.json."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.pack.packing import Packing, fewest_packs
from stages.pack.token_store import StoredDocuments

BINS = 32  # of the histograms of document and pack lengths


def packing_figures(
    documents: StoredDocuments, packing: Packing, capacity: int, max_documents: int, every_token: bool = False
) -> dict[str, Any]:
    """Return rows, tokens and utilisation of one split, the documents of `packing`."""
    at = packing.order
    lengths, packs = np.diff(documents.starts)[at], len(packing)
    tokens = int(lengths.sum())
    labelled = tokens - len(at) if every_token else int(documents.labelled[at].sum())
    halves = int((2 * lengths > capacity).sum())
    fewest = fewest_packs(tokens, len(at), halves, capacity, max_documents)
    return {
        "rows": int(documents.first[np.unique(at)].sum()),  # however often they appear
        "documents": len(at),
        "components": len(np.unique(documents.components[at])),
        "packs": packs,
        "fewest_packs": fewest,  # lower bound on any packing
        "tokens": tokens,
        "labelled_tokens": labelled,
        "labelled_share": rounded_ratio(labelled, tokens),
        "utilisation": rounded_ratio(tokens, packs * capacity),
        "utilisation_bound": rounded_ratio(tokens, fewest * capacity),
        "documents_per_pack": rounded_ratio(len(at), packs),
        "characters_per_token": rounded_ratio(int(documents.characters[at].sum()), tokens),
    }


def packing_histograms(documents: StoredDocuments, packing: Packing, capacity: int) -> dict[str, Any]:
    """Return counts for plots: documents (`rows`) and packs by tokens, packs by number of documents."""
    width = -(-capacity // BINS)
    edges = list(range(width, capacity + width, width))
    lengths = np.diff(documents.starts)[packing.order]
    packs = np.add.reduceat(lengths, packing.starts[:-1]) if len(packing) else lengths

    def binned(counts: npt.NDArray[np.int64]) -> list[int]:
        return np.bincount((counts - 1) // width, minlength=len(edges)).tolist()

    return {
        "tokens": edges,  # upper edges of the bins
        "rows": binned(lengths),
        "packs": binned(packs),
        "packs_by_documents": np.bincount(np.diff(packing.starts))[1:].tolist(),
    }


def rounded_ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
