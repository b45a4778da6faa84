"""Render, tokenize, mask and pack the rows of data/clean; hold out a validation split.

    dvc repro pack
    python -m stages.pack pack.max_length=2048

Writes data/packed/{train,validation}.arrow (see `pack_schema`) and packing.json, the same bytes every time.
"""

from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_parquet, replacing, write_json
from stages.common.stage import Settings, run
from stages.common.tokens import load_tokenizer
from stages.pack.documents import Document, Documents, make_documents
from stages.pack.files import check_columns, check_context, check_vocabulary, row_batches, write_packs
from stages.pack.measures import histograms, measure
from stages.pack.packing import best_fit_decreasing
from stages.pack.split import validation_components

ROWS = Path("data/clean/rows.parquet")
MODEL = Path("models/base")
PACKED = Path("data/packed")


def main(settings: Settings) -> dict[str, Any]:
    """Rows in, packs out; returns what was kept, dropped and how full the packs are."""
    pack = settings.pack
    table = read_parquet(ROWS)
    check_columns(table, ROWS)
    context = check_context(MODEL, pack.max_length)
    tokenizer = load_tokenizer(MODEL)

    documents = make_documents(row_batches(table), tokenizer, settings.prompt, pack.max_length, pack.overlong)
    refuse_nothing(documents, table.num_rows)
    check_vocabulary(MODEL, documents.kept)
    splits = split(documents.kept, pack.validation_share, pack.seed)

    metrics: dict[str, Any] = {
        "style": settings.prompt.style,
        "max_length": pack.max_length,
        "context": context,
        "rows_in": table.num_rows,
        "rows_kept": len(documents.kept),
        "rows_dropped": dict(sorted(documents.dropped.items())),
    }
    with replacing(PACKED) as folder:
        folder.mkdir()
        for name, chosen in splits.items():
            packs = best_fit_decreasing([len(d.ids) for d in chosen], pack.max_length)
            write_packs(folder / f"{name}.arrow", chosen, packs)
            metrics[name] = measure(chosen, packs, pack.max_length)
            if name == "train":
                metrics["histograms"] = histograms(chosen, packs, pack.max_length)
        counts = {key: value for key, value in metrics.items() if key != "histograms"}
        write_json(folder / "packing.json", counts)
    tell(metrics)
    return metrics


def split(documents: list[Document], share: float, seed: int) -> dict[str, list[Document]]:
    """Training and validation documents; no component is on both sides."""
    held_out = validation_components([d.component for d in documents], share, seed)
    return {
        "train": [d for d in documents if d.component not in held_out],
        "validation": [d for d in documents if d.component in held_out],
    }


def refuse_nothing(documents: Documents, rows: int) -> None:
    """Raises UserError where no row is left to train on."""
    if documents.kept:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(documents.dropped.items()))
    raise UserError(
        f"{ROWS}: no rows left to pack, of {rows} ({reasons or 'the file is empty'}). Raise pack.max_length, choose "
        f"another prompt.style, or loosen the rules of clean."
    )


def tell(metrics: dict[str, Any]) -> None:
    """One line a split, for whoever watches."""
    for name in ("train", "validation"):
        figures = metrics[name]
        print(
            f"{name}: {figures['rows']} rows, {figures['tokens']} tokens ({figures['labelled_tokens']} labelled) in "
            f"{figures['packs']} packs, {figures['utilisation']:.1%} full"
        )
    if metrics["rows_dropped"]:
        print("dropped: " + ", ".join(f"{n} {reason}" for reason, n in metrics["rows_dropped"].items()))


if __name__ == "__main__":
    run("pack", main)
