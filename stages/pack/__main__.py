"""Render, tokenize, mask and pack the rows of data/clean; hold out a validation split.

    dvc repro pack
    python -m stages.pack pack.max_length=2048
    python -m stages.pack.show    # a row of each source as the model will see it

Writes data/packed/{train,validation}.arrow (see `pack_schema`), dropped.parquet and packing.json: the same bytes
every time, on every engine. Workers take one row group at a time. Tokens wait in a scratch file; memory is a few
row groups per worker, and some 80 bytes per document.
"""

import os
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from stages.common.core.files import atomic_folder, write_json
from stages.common.core.paths import BASE_MODEL, PACKED
from stages.common.core.stage import Settings, run
from stages.common.engine import EngineSettings, open_engine
from stages.common.text.fill_tokens import OTHER_STYLE, fill_tokens
from stages.common.text.settings import PromptSettings
from stages.pack.clean_rows import VALIDATED, open_rows
from stages.pack.documents import RowGroupTask, cached_tokenizer, tokenize_group
from stages.pack.drops import Drops
from stages.pack.model_limits import check_context, vocabulary_size
from stages.pack.overlong import OverlongCost
from stages.pack.pack_writer import write_packs
from stages.pack.packing import Packing, pack_lengths
from stages.pack.packing_statistics import packing_figures, packing_histograms
from stages.pack.settings import PackSettings
from stages.pack.show import SAMPLE_CHARACTERS, find_rows, rendered_row
from stages.pack.split import repeat_validated, validation_mask
from stages.pack.token_store import StoredDocuments, TokenStore

SPLITS = ("train", "validation")


def main(settings: Settings) -> dict[str, Any]:
    """Pack the rows; return how many were kept and dropped, and how full the packs are."""
    pack: PackSettings = settings.pack
    with open_rows() as file:
        rows, groups = file.metadata.num_rows, file.num_row_groups
        is_validated = VALIDATED in file.schema_arrow.names
    context = check_context(BASE_MODEL, pack.max_length)
    task = RowGroupTask(0, str(BASE_MODEL), vocabulary_size(BASE_MODEL), pack, settings.prompt, alone=True)
    cached_tokenizer.cache_clear()  # of a folder that has changed since
    tokenizer = cached_tokenizer(task.model)  # report a broken tokenizer before workers start
    if settings.prompt.style == "fim":
        middle = tokenizer.convert_tokens_to_ids(fill_tokens(tokenizer, OTHER_STYLE).middle)

    with atomic_folder(PACKED) as folder:
        store, drops = TokenStore(folder / "tokens"), Drops(folder / "dropped.parquet")
        with drops:
            cost, glued = tokenize_groups(task, groups, settings.engine, store, drops)
        documents = store.read()
        drops.check(rows, len(documents.row_ids), pack.max_dropped_share)
        packings = split_and_pack(documents, pack)
        for name, packing in packings.items():
            write_packs(folder / f"{name}.arrow", documents, packing, trains_on_text(name, settings.prompt))
        metrics: dict[str, Any] = {
            "style": settings.prompt.style,
            "max_length": pack.max_length,
            "context": context,
            "rows_in": rows,
            "rows_kept": int(documents.first.sum()),
            "rows_dropped": dict(sorted(drops.counts.items())),
            "rows_glued": len(glued),
            **({"documents_filled": documents.count(~middle)} if settings.prompt.style == "fim" else {}),
            **({"validated": validated_figures(documents, pack)} if is_validated else {}),
            "overlong": {"what": pack.overlong, **asdict(cost)},
            **{
                name: packing_figures(
                    documents,
                    packing,
                    pack.max_length,
                    pack.max_documents,
                    trains_on_text(name, settings.prompt),
                )
                for name, packing in packings.items()
            },
        }
        histograms = packing_histograms(documents, packings["train"], pack.max_length)
        (folder / "tokens").unlink()
        write_json(folder / "packing.json", metrics)
    if pack.validated_copies > 1 and not is_validated:
        print(f"note: pack.validated_copies={pack.validated_copies} repeats no row, since clean ran no tests (clean.validate)")  # fmt: skip
    if "documents_filled" in metrics:
        print(f"fill in the middle: {metrics['documents_filled']} of {len(documents.row_ids)} documents")
    print_summary(metrics, drops, glued)
    if sys.stdout.isatty():
        print("\n\n".join(rendered_row(row, task, characters=SAMPLE_CHARACTERS) for row in find_rows()))
    return {**metrics, "histograms": histograms}


def tokenize_groups(
    task: RowGroupTask, groups: int, settings: EngineSettings, store: TokenStore, drops: Drops
) -> tuple[OverlongCost, list[str]]:
    """Fill the store and the drops from all row groups; return the cost of long rows, and the glued rows."""
    from tqdm import tqdm

    workers = min(settings.workers or len(os.sched_getaffinity(0)), max(1, groups))
    cost, glued = OverlongCost(), []
    with open_engine(replace(settings, workers=workers)) as engine:
        tasks = (task._replace(group=group, alone=engine.workers == 1) for group in range(groups))
        for tokenized in tqdm(engine.map(tokenize_group, tasks), total=groups, desc="pack", unit="row group"):
            store.append(tokenized)
            drops.add(tokenized.dropped)
            cost.add(tokenized.cost)
            glued += tokenized.glued
    return cost, glued


def split_and_pack(documents: StoredDocuments, pack: PackSettings) -> dict[str, Packing]:
    """Return the packs of each split, of indices into the documents; validated ones are repeated to train on."""
    held_out, warning = validation_mask(documents.components, documents.row_ids, pack.validation_share)
    if warning:
        print(f"WARNING: {warning}")
    packings = {}
    for name, in_split in zip(SPLITS, (~held_out, held_out), strict=True):
        indices = np.flatnonzero(in_split)
        if name == "train":
            indices = repeat_validated(indices, documents.validated, pack.validated_copies)
        packing = pack_lengths(np.diff(documents.starts)[indices], pack.max_length, pack.max_documents)
        packings[name] = Packing(indices[packing.order], packing.starts)
    return packings


def trains_on_text(split: str, prompt: PromptSettings) -> bool:
    """Whether every token of a split is labelled; validation labels answers alone, so that its losses compare."""
    return split == "train" and prompt.loss == "text"


def validated_figures(documents: StoredDocuments, pack: PackSettings) -> dict[str, int]:
    """Return how many of all rows passed their tests, and how many times an epoch they appear."""
    return {"rows": int((documents.first & documents.validated).sum()), "copies": pack.validated_copies}


def print_summary(metrics: dict[str, Any], drops: Drops, glued: list[str]) -> None:
    for name in SPLITS:
        figures = metrics[name]
        print(
            f"{name}: {figures['rows']} rows, {figures['tokens']} tokens ({figures['labelled_tokens']} "
            f"labelled) in {figures['packs']} packs, {figures['utilisation']:.1%} full"
        )
    for line in drops.summary(metrics["rows_in"]):
        print(line)
    overlong = metrics["overlong"]
    if overlong["rows"]:
        print(
            f"over {metrics['max_length']} tokens: {overlong['rows']} rows "
            f"(pack.overlong={overlong['what']}), {overlong['tokens_lost']} tokens lost, "
            f"{overlong['labelled_tokens_lost']} of them labelled"
        )
    if glued:
        print(
            f"WARNING: in {len(glued)} rows the completion follows the prompt without white space between, e.g. "
            f"row {glued[0]} (`python -m stages.pack.show {glued[0]}`). For instructions and their answers choose "
            "clean=instruct prompt=alpaca, or prompt=chat."
        )


if __name__ == "__main__":
    run("pack", main, observes=("engine",))
