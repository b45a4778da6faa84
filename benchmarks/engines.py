"""The same bytes on every engine: clean and pack with one worker, two, and a Ray cluster of two nodes on this machine.

Compares the hashes of all files of data/clean and data/packed, after one fetch of the generated corpus as in `scaling`; ends
with an error where they differ. Times are of the whole command, processes and Ray's start included.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clean import REPOSITORY, stage_command, watch
from benchmarks.corpora import corpus_of
from benchmarks.scaling import DATA, project
from benchmarks.tell import Part
from stages.common.core.files import sha256_folder

NODE = {"num_cpus": 1, "object_store_memory": 500 * 2**20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000)


def run(given: argparse.Namespace) -> list[Part]:
    with tempfile.TemporaryDirectory(dir=corpus_of(given.rows).parent) as name:
        folder = Path(name)
        project(folder, given.rows)
        (folder / "stages").symlink_to(REPOSITORY.resolve() / "stages")  # what nodes import
        watch(stage_command("fetch"), folder, given.rows)
        one = hashes(folder, given.rows, "one worker", "engine.workers=1")
        found = {"two workers": hashes(folder, given.rows, "two workers", "engine.workers=2")}
        with cluster() as address:
            ray = ("engine.kind=ray", f"engine.address={address}")
            found["two nodes of Ray"] = hashes(folder, given.rows, "two nodes of Ray", *ray)
    for engine, files in found.items():
        if files != one:
            sys.exit(f"error: {engine} wrote other bytes than one worker: {files}, {one}")
    return [
        Part(f"clean and pack, {given.rows:,} rows", ", ".join(found), "one worker", "same bytes", "the same")
    ]


def hashes(folder: Path, rows: int, engine: str, *overrides: str) -> dict[str, str]:
    """sha256 of what each stage writes with an engine."""
    found = {}
    for stage in ("clean", "pack"):
        shutil.rmtree(folder / DATA[stage], ignore_errors=True)
        cost = watch(stage_command(stage, *overrides), folder, rows)
        found[stage] = sha256_folder(folder / DATA[stage])
        print(f"{engine:<18}{stage:<7}{cost.seconds:>8.1f} s  {found[stage]}", flush=True)
    return found


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes of one core; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        nodes.add_node(**NODE)
        yield nodes.address
    finally:
        nodes.shutdown()
