"""Render, tokenize, mask and pack the rows of data/clean; hold out a validation split.

    dvc repro pack
    python -m stages.pack pack.max_length=2048

Writes data/packed/{train,validation}.arrow (see `pack_schema`) and packing.json: the same bytes every time,
on every engine. Workers take one row group at a time. Memory is a few row groups per worker, and some bytes
per document of a shard.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.engine import EngineSettings, open_engine
from stages.common.errors import UserError
from stages.common.files import atomic_folder, write_json
from stages.common.paths import BASE_MODEL, CLEAN_ROWS, PACKED
from stages.common.stage import Settings, run
from stages.pack.clean_rows import open_rows
from stages.pack.documents import RowGroupTask, cached_tokenizer, tokenize_group
from stages.pack.model_limits import check_context, vocabulary_size
from stages.pack.overlong import OverlongCost
from stages.pack.pack_writer import PackWriter
from stages.pack.packing import Packing, pack_lengths
from stages.pack.packing_statistics import PackingStatistics
from stages.pack.settings import PackSettings
from stages.pack.split import distinct_hashes, validation_split
from stages.pack.token_store import StoredDocuments, TokenStore

SPLITS = ("train", "validation")


def main(settings: Settings) -> dict[str, Any]:
    """Pack the rows; return how many were kept and dropped, and how full the packs are."""
    pack: PackSettings = settings.pack
    with open_rows() as file:
        rows, groups = file.metadata.num_rows, file.num_row_groups
    context = check_context(BASE_MODEL, pack.max_length)
    stamp = tuple(sorted(path.stat().st_mtime_ns for path in BASE_MODEL.iterdir()))
    task = RowGroupTask(
        0, str(BASE_MODEL), stamp, vocabulary_size(BASE_MODEL), pack, settings.prompt, alone=True
    )
    cached_tokenizer(task.model, task.stamp)  # report a broken tokenizer before workers start

    with atomic_folder(PACKED) as folder:
        with TokenStore(folder / "tokens") as store:
            dropped, cost = tokenize_rows(task, groups, settings.engine, store)
            require_documents(store.documents, rows, dropped)
            statistics = write_splits(store.read(), folder, pack)
        shutil.rmtree(folder / "tokens")
        metrics: dict[str, Any] = {
            "style": settings.prompt.style,
            "max_length": pack.max_length,
            "context": context,
            "rows_in": rows,
            "rows_kept": store.rows,
            "rows_dropped": dict(sorted(dropped.items())),
            "overlong": {"what": pack.overlong, **asdict(cost)},
            **{name: statistics[name].figures() for name in SPLITS},
        }
        write_json(folder / "packing.json", metrics)
    print_summary(metrics)
    return {**metrics, "histograms": statistics["train"].histograms()}


def tokenize_rows(
    task: RowGroupTask, groups: int, settings: EngineSettings, store: TokenStore
) -> tuple[Counter[str], OverlongCost]:
    """Fill the store with the documents of all row groups; return dropped rows and the cost of long rows."""
    from tqdm import tqdm

    workers = min(settings.workers or len(os.sched_getaffinity(0)), max(1, groups))
    dropped: Counter[str] = Counter()
    cost = OverlongCost()
    with open_engine(replace(settings, workers=workers)) as engine:
        tasks = (task._replace(group=group, alone=engine.workers == 1) for group in range(groups))
        for tokenized in tqdm(
            engine.map(tokenize_group, tasks),
            total=groups,
            desc="pack",
            unit="row group",
            disable=not sys.stderr.isatty(),
        ):
            store.append(tokenized)
            dropped += tokenized.dropped
            cost.add(tokenized.cost)
    return dropped, cost


def write_splits(
    documents: StoredDocuments, folder: Path, pack: PackSettings
) -> dict[str, PackingStatistics]:
    """Pack the documents shard by shard into one file per split; return the statistics of each split."""
    statistics = {name: PackingStatistics(pack.max_length, pack.max_documents) for name in SPLITS}
    shards = [documents.shard(*bounds) for bounds in shard_bounds(len(documents), pack.shard_rows)]
    components = [shard.components for shard in shards]
    split = validation_split(components, pack.validation_share)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(PackWriter(folder / f"{name}.arrow")) for name in SPLITS}
        for shard in shards:
            held_out = split.held_out(shard.components)
            for name, in_split in (("train", ~held_out), ("validation", held_out)):
                indices = np.flatnonzero(in_split)
                lengths = np.diff(shard.starts)[indices]
                packing = pack_lengths(lengths, pack.max_length, pack.max_documents)
                writers[name].write(shard, Packing(indices[packing.order], packing.starts))
                statistics[name].add(shard, indices, lengths, packing)
            documents.release()
    for hashes in distinct_hashes(components):
        held_out = split.held_out(hashes)
        statistics["validation"].components += int(held_out.sum())
        statistics["train"].components += int((~held_out).sum())
        documents.release()
    return statistics


def shard_bounds(documents: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds (first, end) of documents that are packed together; size 0: one shard of all."""
    size = size or max(1, documents)
    return ((first, min(first + size, documents)) for first in range(0, documents, size))


def require_documents(documents: int, rows: int, dropped: Counter[str]) -> None:
    """Raise UserError if no document is left to train on."""
    if documents:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    raise UserError(
        f"{CLEAN_ROWS}: none of {rows} rows is left to pack ({reasons or 'the file is empty'}). Raise "
        "pack.max_length, choose another prompt.style, or loosen the rules of clean."
    )


def print_summary(metrics: dict[str, Any]) -> None:
    for name in SPLITS:
        figures = metrics[name]
        print(
            f"{name}: {figures['rows']} rows, {figures['tokens']} tokens ({figures['labelled_tokens']} "
            f"labelled) in {figures['packs']} packs, {figures['utilisation']:.1%} full"
        )
    if metrics["rows_dropped"]:
        print("dropped: " + ", ".join(f"{n} {reason}" for reason, n in metrics["rows_dropped"].items()))
    overlong = metrics["overlong"]
    if overlong["rows"]:
        print(
            f"over {metrics['max_length']} tokens: {overlong['rows']} rows "
            f"(pack.overlong={overlong['what']}), {overlong['tokens_lost']} tokens lost, "
            f"{overlong['labelled_tokens_lost']} of them labelled"
        )


if __name__ == "__main__":
    run("pack", main, observes=("engine",))
