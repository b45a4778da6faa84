"""Packing: ours against TRL's `pack_dataset` (`bfd`), from tokenized documents on disk to an Arrow file of packs.

Lengths are distributed like those of the generated corpus in tokens. Each side reads the same documents in its own form: TRL
an Arrow file of `input_ids` and `labels`, ours the groups that the stage's tokenization leaves, whose tokens go
through its scratch file within the time. Both were written just before, and both write an Arrow file of packs with `input_ids`,
`labels` and the lengths of the documents; ours also packs the row ids, splits and counts, as the stage does. A run is a
process of its own; the clock starts behind its imports, on memory that was in use a moment before (`memory_at_hand`): else
whichever side comes first pays for pages that a virtual machine's host has to find, some seconds for the packs alone.
TRL packs each batch of `map` by itself: it runs with its default of 1,000 rows, and with all rows in one batch, where its
packs are as full as they get.
"""

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers import TRL, python_of
from benchmarks.tell import Part, ratio
from stages.pack.documents import TokenizedGroup
from stages.pack.packing import fewest_packs

CAPACITY = 1024
WRITTEN = 10_000  # documents at once
SIDES = {
    "ours": "benchmarks.pack_ours_run",
    "TRL, batches of 1,000": "benchmarks.pack_trl_run",
    "TRL, one batch": "benchmarks.pack_trl_run",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--repeats", type=int, default=1, help="of each side, alternating; the fastest counts"
    )
    parser.add_argument("--capacity", type=int, default=CAPACITY, help="tokens a pack")


def run(given: argparse.Namespace) -> list[Part]:
    python = python_of("trl", *TRL)
    lengths = lengths_of(given.rows, given.capacity)
    tokens, halves = int(lengths.sum()), int((2 * lengths > given.capacity).sum())
    fewest = fewest_packs(tokens, given.rows, halves, given.capacity)
    print(
        f"{given.rows:,} documents of {tokens:,} tokens, packs of {given.capacity}; no packing has fewer than {fewest:,} "
        f"packs, {tokens / (fewest * given.capacity):.4%} full"
    )
    print(f"{'':<24}{'wall s':>9}{'cpu s':>9}{'packs':>10}{'utilisation':>13}{'peak MiB':>10}")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder, lengths)
        for _ in range(given.repeats):
            for side in given.sides:
                cost = run_side(side, folder, given, python)
                if cost["tokens"] != tokens:
                    sys.exit(f"error: {side} packed {cost['tokens']} tokens of {tokens}")
                found[side] = min(cost, found.get(side, cost), key=lambda each: each["wall"])
        for side, cost in found.items():
            cost["utilisation"] = tokens / (cost["packs"] * given.capacity)
            print(
                f"{side:<24}{cost['wall']:>9.2f}{cost['cpu']:>9.2f}{cost['packs']:>10,}{cost['utilisation']:>13.4%}"
                f"{cost['peak']:>10,}",
                flush=True,
            )
    if "ours" not in found:
        return []
    ours = found.pop("ours")
    return [
        Part(
            f"packing {given.rows:,} lengths, {side}",
            f"{ours['wall']:.1f} s, {ours['utilisation']:.2%} full",
            f"{cost['wall']:.1f} s, {cost['utilisation']:.2%} full",
            ratio(cost["wall"], ours["wall"]),
            "5x, utilisation no lower",
        )
        for side, cost in found.items()
    ]


def run_side(side: str, folder: Path, given: argparse.Namespace, python: Path) -> dict[str, Any]:
    interpreter = Path(sys.executable) if side == "ours" else python
    batch = given.rows if side == "TRL, one batch" else 1000
    output = folder / side.replace(" ", "-")
    command = [str(interpreter), "-m", SIDES[side], str(folder), str(output), str(given.capacity), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr[-2000:]}")
    cost = json.loads((output / "cost.json").read_text())
    shutil.rmtree(output)
    return cost


def lengths_of(rows: int, capacity: int) -> np.ndarray:
    """Token counts: log-normal with the mean (about 195) and the spread of the generated corpus in SmolLM2's tokens."""
    drawn = np.random.default_rng(0).lognormal(5.23, 0.3, rows)
    return np.clip(drawn, 8, capacity).astype(np.int64)


def write_documents(folder: Path, lengths: np.ndarray) -> None:
    """Documents of random ids: `documents.arrow` for TRL, `groups.pickle` for ours. Every token but the first is trained on; TRL's
    labels are the ids."""
    draw = np.random.default_rng(1)
    kind = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", kind), ("labels", kind)])
    store = []
    with (
        pa.OSFile(str(folder / "documents.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        for start in range(0, len(lengths), WRITTEN):
            part = lengths[start : start + WRITTEN]
            ids = draw.integers(0, 49152, part.sum(), dtype=np.int32)
            column = pa.ListArray.from_arrays(np.r_[0, np.cumsum(part)].astype(np.int32), pa.array(ids))
            writer.write_batch(pa.RecordBatch.from_arrays([column, column], schema=schema))
            store.append(documents_of(ids, part, start))
    (folder / "groups.pickle").write_bytes(pickle.dumps(store))


def documents_of(ids: np.ndarray, lengths: np.ndarray, start: int) -> TokenizedGroup:
    """Documents as the stage's tokenization gives them, each of a row of its own with an id of 16 characters."""
    count = len(lengths)
    tokens = ids.copy()
    tokens[np.cumsum(lengths) - lengths] ^= -1  # no loss
    return TokenizedGroup(
        tokens,
        lengths,
        row_ids=[f"{number:016x}" for number in range(start, start + count)],
        components=np.arange(start, start + count).astype(np.uint64),
        characters=4 * lengths,
        first=np.ones(count, bool),
        validated=np.zeros(count, bool),
    )
