"""How much a labelled token counts in the loss, by the source of its row (`train.source_weights`)."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from stages.common.core.errors import UserError
from stages.common.core.files import open_parquet
from stages.common.core.paths import CLEAN_ROWS
from stages.common.model.loss import labelled_targets
from stages.common.model.packs import Packs


def weigh_packs(packs: Packs, weights: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Give each document of the packs the weight of its source (1 for sources without one); return what was done.

    Returns:
        by source: its weight, and how many documents it has in the packs.

    Raises:
        UserError: no document is of a source that is named, or a document's row is not in data/clean.
    """
    if not weights:
        return {}
    source_of = read_sources()
    documents = packs.row_ids()
    unknown_row = next((row for row in documents if row not in source_of), None)
    if unknown_row is not None:
        raise UserError(f"{packs.path}: row {unknown_row} is not in {CLEAN_ROWS}. Run `dvc repro pack`.")
    counts = Counter(source_of[row] for row in documents)
    unknown = [name for name in weights if name not in counts]
    if unknown:
        raise UserError(
            f"train.source_weights: no training document is of source {', '.join(unknown)}. The packs have "
            f"{', '.join(f'{name} ({count})' for name, count in sorted(counts.items()))}."
        )
    packs.weigh({row: float(weights.get(source_of[row], 1.0)) for row in set(documents)})
    return {
        name: {"weight": float(weights.get(name, 1.0)), "documents": count}
        for name, count in sorted(counts.items())
    }


def read_sources() -> dict[str, str]:
    """Return the source of each row of data/clean by its id."""
    with open_parquet(CLEAN_ROWS) as file:
        table = file.read(columns=["id", "source"])
    return dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True))


def count_labels(row: dict[str, Any]) -> int:
    return len(labelled_targets(row["labels"])[1])


def label_weight(row: dict[str, Any]) -> float:
    """Return the weight of all labelled tokens of a row: how many they are, where sources have no weights."""
    if "weights" not in row:
        return count_labels(row)
    return float(row["weights"][0, 1:][labelled_targets(row["labels"])[0]].sum(dtype=torch.float64))
