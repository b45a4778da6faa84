"""Figures of a packing, for reports/pack.json."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.pack.documents import Document
from stages.pack.packing import fewest_packs

BINS = 32  # of the histogram of row lengths


def measure(documents: Sequence[Document], packs: Sequence[Sequence[int]], max_length: int) -> dict[str, Any]:
    """Rows, tokens and how well the packs are used, of one split."""
    lengths = [len(d.ids) for d in documents]
    tokens = sum(lengths)
    labelled = sum(length - max(1, d.prompt_tokens) for length, d in zip(lengths, documents, strict=True))
    return {
        "rows": len(documents),
        "components": len({d.component for d in documents}),
        "packs": len(packs),
        "fewest_packs": fewest_packs(lengths, max_length),  # no packing has less
        "tokens": tokens,
        "labelled_tokens": labelled,
        "labelled_share": ratio(labelled, tokens),
        "utilisation": ratio(tokens, len(packs) * max_length),
        "documents_per_pack": ratio(len(documents), len(packs)),
        "characters_per_token": ratio(sum(d.characters for d in documents), tokens),
    }


def histograms(
    documents: Sequence[Document], packs: Sequence[Sequence[int]], max_length: int
) -> dict[str, Any]:
    """Counts for pictures: rows by length (`tokens`: upper edges of bins), packs by documents and by tokens."""
    width = -(-max_length // BINS)
    edges = list(range(width, max_length + width, width))
    row_bins = Counter((len(d.ids) - 1) // width for d in documents)
    pack_bins = Counter((sum(len(documents[i].ids) for i in pack) - 1) // width for pack in packs)
    per_pack = Counter(len(pack) for pack in packs)
    return {
        "tokens": edges,
        "rows": [row_bins[i] for i in range(len(edges))],
        "packs": [pack_bins[i] for i in range(len(edges))],
        "packs_by_documents": [per_pack[i] for i in range(1, max(per_pack, default=0) + 1)],
    }


def ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
