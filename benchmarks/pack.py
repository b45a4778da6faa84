"""Packing: ours against TRL's `pack_dataset` (`bfd`), from an Arrow file of input_ids to an Arrow file of packs.

Lengths are distributed like those of the generated corpus in tokens. TRL packs each batch of `map` by itself: it runs with
its default of 1,000 rows, and with all rows in one batch, where its packs are as full as they get. Both sides read a
memory-mapped file and write one; both carry `input_ids` and `labels`.
"""

import argparse
import json
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

CAPACITY = 1024
SIDES = {
    "ours": "benchmarks.pack_ours_run",
    "TRL, batches of 1,000": "benchmarks.pack_trl_run",
    "TRL, one batch": "benchmarks.pack_trl_run",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--repeats",
        type=int,
        default=2,
        help="of each side, alternating; the fastest counts, on memory once used",
    )
    parser.add_argument("--capacity", type=int, default=CAPACITY, help="tokens a pack")


def run(given: argparse.Namespace) -> list[Part]:
    python = python_of("trl", *TRL)
    print(f"{given.rows} documents, packs of {given.capacity} tokens; utilisation of all token slots")
    print(f"{'':<24}{'wall s':>9}{'cpu s':>9}{'packs':>10}{'utilisation':>13}{'tokens':>14}{'peak MiB':>10}")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = write_documents(folder / "documents.arrow", given.rows, given.capacity)
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
                f"{cost['tokens']:>14,}{cost['peak']:>10,}",
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


def write_documents(path: Path, rows: int, capacity: int) -> int:
    """Write `input_ids` and `labels` of that many documents as an Arrow stream; returns their tokens."""
    lengths = lengths_of(rows, capacity)
    draw = np.random.default_rng(1)
    kind = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", kind), ("labels", kind)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, rows, 10_000):
            part = lengths[start : start + 10_000]
            values = pa.array(draw.integers(0, 49152, part.sum(), dtype=np.int32))
            offsets = pa.array(np.r_[0, np.cumsum(part)].astype(np.int32))
            column = pa.ListArray.from_arrays(offsets, values)
            writer.write_batch(pa.RecordBatch.from_arrays([column, column], schema=schema))
    return int(lengths.sum())
