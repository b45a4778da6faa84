"""Render, tokenize, mask and pack the rows of data/clean; hold out a validation split.

    dvc repro pack
    python -m stages.pack pack.max_length=2048

Writes data/packed/{train,validation}.arrow (see `pack_schema`) and packing.json, the same bytes every time, whatever the
engine. Rows are worked on by row groups; memory is a few row groups a worker, and some bytes a document of a shard.
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
from stages.common.files import atomic_write, write_json
from stages.common.stage import Settings, run
from stages.pack.clean_rows import ROWS, open_rows
from stages.pack.documents import Task, documents_of, tokenizer_of
from stages.pack.model_limits import check_context, vocabulary_of
from stages.pack.overlong import Cost
from stages.pack.pack_writer import PackWriter
from stages.pack.packing import Packing
from stages.pack.packing import pack as packing_of
from stages.pack.packing_statistics import Measures
from stages.pack.settings import PackSettings
from stages.pack.split import distinct, validation_split
from stages.pack.token_store import Documents, Spool

MODEL = Path("models/base")
PACKED = Path("data/packed")
SPLITS = ("train", "validation")


def main(settings: Settings) -> dict[str, Any]:
    """Rows in, packs out; returns what was kept, dropped and how full the packs are."""
    pack: PackSettings = settings.pack
    with open_rows() as file:
        rows, groups = file.metadata.num_rows, file.num_row_groups
    context = check_context(MODEL, pack.max_length)
    stamp = tuple(sorted(path.stat().st_mtime_ns for path in MODEL.iterdir()))
    task = Task(0, str(MODEL), stamp, vocabulary_of(MODEL), pack, settings.prompt, alone=True)
    tokenizer_of(task.model, task.stamp)  # what is wrong with it is said before workers start

    with atomic_write(PACKED) as folder:
        folder.mkdir()
        with Spool(folder / "spool") as spool:
            dropped, cost = tokenized(task, groups, settings.engine, spool)
            refuse_nothing(spool.documents, rows, dropped)
            measures = write(spool.read(), folder, pack)
        shutil.rmtree(folder / "spool")
        metrics: dict[str, Any] = {
            "style": settings.prompt.style,
            "max_length": pack.max_length,
            "context": context,
            "rows_in": rows,
            "rows_kept": spool.rows,
            "rows_dropped": dict(sorted(dropped.items())),
            "overlong": {"what": pack.overlong, **asdict(cost)},
            **{name: measures[name].figures() for name in SPLITS},
        }
        write_json(folder / "packing.json", metrics)
    tell(metrics)
    return {**metrics, "histograms": measures["train"].histograms()}


def tokenized(task: Task, groups: int, settings: EngineSettings, spool: Spool) -> tuple[Counter[str], Cost]:
    """Fill the spool with the documents of all row groups, in their order; what was dropped and what was cut."""
    from tqdm import tqdm

    workers = min(settings.workers or len(os.sched_getaffinity(0)), max(1, groups))
    dropped: Counter[str] = Counter()
    cost = Cost()
    with open_engine(replace(settings, workers=workers)) as engine:
        tasks = (task._replace(group=group, alone=engine.workers == 1) for group in range(groups))
        for part in tqdm(
            engine.map(documents_of, tasks),
            total=groups,
            desc="pack",
            unit="row group",
            disable=not sys.stderr.isatty(),
        ):
            spool.append(part)
            dropped += part.dropped
            cost.add(part.cost)
    return dropped, cost


def write(documents: Documents, folder: Path, pack: PackSettings) -> dict[str, Measures]:
    """Pack the documents, shard by shard, into one file a split; the figures of each."""
    measures = {name: Measures(pack.max_length, pack.max_documents) for name in SPLITS}
    parts = [documents.part(*bounds) for bounds in shards(len(documents), pack.shard_rows)]
    components = [part.components for part in parts]
    split = validation_split(components, pack.validation_share)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(PackWriter(folder / f"{name}.arrow")) for name in SPLITS}
        for part in parts:
            held_out = split.held_out(part.components)
            for name, side in (("train", ~held_out), ("validation", held_out)):
                chosen = np.flatnonzero(side)
                lengths = np.diff(part.starts)[chosen]
                packing = packing_of(lengths, pack.max_length, pack.max_documents)
                writers[name].write(part, Packing(chosen[packing.order], packing.starts))
                measures[name].add(part, chosen, lengths, packing)
            documents.release()
    for hashes in distinct(components):
        held_out = split.held_out(hashes)
        measures["validation"].components += int(held_out.sum())
        measures["train"].components += int((~held_out).sum())
        documents.release()
    return measures


def shards(documents: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last of documents that are packed together; size 0: all."""
    size = size or max(1, documents)
    return ((first, min(first + size, documents)) for first in range(0, documents, size))


def refuse_nothing(documents: int, rows: int, dropped: Counter[str]) -> None:
    """Raises UserError where no row is left to train on."""
    if documents:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    raise UserError(
        f"{ROWS}: no rows left to pack, of {rows} ({reasons or 'the file is empty'}). Raise pack.max_length, choose "
        f"another prompt.style, or loosen the rules of clean."
    )


def tell(metrics: dict[str, Any]) -> None:
    """One line a split, for whoever watches."""
    for name in SPLITS:
        figures = metrics[name]
        print(
            f"{name}: {figures['rows']} rows, {figures['tokens']} tokens ({figures['labelled_tokens']} labelled) in "
            f"{figures['packs']} packs, {figures['utilisation']:.1%} full"
        )
    if metrics["rows_dropped"]:
        print("dropped: " + ", ".join(f"{n} {reason}" for reason, n in metrics["rows_dropped"].items()))
    overlong = metrics["overlong"]
    if overlong["rows"]:
        print(
            f"over {metrics['max_length']} tokens: {overlong['rows']} rows, {overlong['what']}: {overlong['tokens_lost']} "
            f"tokens lost, {overlong['labelled_tokens_lost']} of labels"
        )


if __name__ == "__main__":
    run("pack", main, observes=("engine",))
