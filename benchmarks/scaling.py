"""What fetch, clean and pack cost at two sizes, one after the other in a project folder of their own, and at 10^6, 10^8, 10^9
rows if each row more costs what it did between the two sizes: the table of docs/scaling.md.

Rows are those of the generated corpus, as JSON lines below data/sources; every rule is on; pack tokenizes with models/base
for packs of 1,024 tokens. A core is one of this machine's; processor time is measured, and wall time is it divided by cores;
fetch has one. The figures asked of clean come of the same runs.
"""

import argparse
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import OmegaConf

from benchmarks.clean import WIDE, Cost, compose, copied, every_rule, stage_command, watch
from benchmarks.corpora import BENCHMARKS, corpus_of
from benchmarks.tell import Part

STAGES = ("fetch", "clean", "pack")
SIZES = (10**6, 10**8, 10**9)
CORES = 64  # of the one machine that the table speaks of
DATA = {"fetch": "data/raw", "clean": "data/clean", "pack": "data/packed"}
MODEL = Path("models/base")


@dataclass(frozen=True)
class Line:
    """A fixed cost and one for each row."""

    base: float
    slope: float

    @classmethod
    def through(cls, rows: int, cost: float, more_rows: int, more: float) -> "Line":
        slope = (more - cost) / (more_rows - rows)
        return cls(max(0.0, cost - slope * rows), slope)

    def at(self, rows: int) -> float:
        return self.base + self.slope * rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000], help="the two sizes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour")


def run(given: argparse.Namespace) -> list[Part]:
    small, large = (costs(rows, given.workers) for rows in sorted(given.rows))
    tell_slopes(small, large)
    tell_sizes(small, large, given.price)
    before, after = small["clean"], large["clean"]
    slope = Line.through(before.rows, before.driver, after.rows, after.driver).slope
    growth = (after.seconds / after.rows) / (before.seconds / before.rows)
    minutes = after.seconds / 60 * 1e6 / after.rows
    return [
        Part(
            "clean, memory of the driver",
            f"{slope:,.0f} bytes a row",
            "-",
            f"{after.driver / 2**20:,.0f} MiB",
            "500 bytes",
        ),
        Part(
            "clean, time of a row, large to small", f"{growth:.2f}", "-", f"{growth - 1:+.0%}", "within 20%"
        ),
        Part("clean, a million rows", f"{minutes:.1f} min", "-", f"{given.workers} workers", "10 min"),
    ]


Costs = dict[str, Cost]  # of each stage


def lines_of(small: Cost, large: Cost) -> tuple[Line, Line, Line]:
    """Processor seconds, peak memory of the driver, peak of the disk that scratch files and results took."""
    return (
        Line.through(small.rows, small.cpu, large.rows, large.cpu),
        Line.through(small.rows, small.driver, large.rows, large.driver),
        Line.through(small.rows, small.disk, large.rows, large.disk),
    )


def tell_slopes(small: Costs, large: Costs) -> None:
    print(
        f"\n{'stage':<8}{'core us/row':>12}{'driver MiB':>12}{'+ B/row':>9}{'worker MiB':>12}{'disk B/row':>12}"
    )
    for stage in STAGES:
        cpu, driver, disk = lines_of(small[stage], large[stage])
        worker = large[stage].worker / 2**20
        print(
            f"{stage:<8}{cpu.slope * 1e6:>12,.0f}{driver.base / 2**20:>12,.0f}{driver.slope:>9,.0f}{worker:>12,.0f}{disk.slope:>12,.0f}"
        )


def tell_sizes(small: Costs, large: Costs, price: float) -> None:
    print(
        f"\n{'rows':<15}{'stage':<7}{'core hours':>11}{f'hours on {CORES}':>13}{'driver GiB':>12}{'disk GB':>10}{'cost':>9}"
    )
    for rows in SIZES:
        for stage in STAGES:
            cpu, driver, disk = (line.at(rows) for line in lines_of(small[stage], large[stage]))
            hours, cores = cpu / 3600, 1 if stage == "fetch" else CORES
            print(
                f"{rows:<15,}{stage:<7}{hours:>11,.2f}{hours / cores:>13,.2f}{driver / 2**30:>12,.1f}{disk / 1e9:>10,.1f}"
                f"{hours * price:>9,.2f}"
            )


def costs(rows: int, workers: int) -> Costs:
    """Run the stages over that many rows, one after the other."""
    found = {}
    with tempfile.TemporaryDirectory(dir=corpus_of(rows).parent) as name:
        folder = Path(name)
        project(folder, rows)
        for stage in STAGES:
            engine = [] if stage == "fetch" else [f"engine.workers={workers}"]
            cost = watch(stage_command(stage, *engine), folder, rows)
            found[stage] = cost
            print(
                f"{rows:>10,} rows  {stage:<6}{cost.seconds:>8.1f} s{cost.cpu:>8.1f} cpu s{cost.driver / 2**20:>8,.0f} MiB driver"
                f"{cost.worker / 2**20:>8,.0f} MiB worker{cost.disk / 1e6:>10,.1f} MB disk",
                flush=True,
            )
    return found


def project(folder: Path, rows: int) -> None:
    """A project whose sources are the corpus as JSON lines, and its configuration composed."""
    copied(folder)
    sources = folder / "data/sources"
    sources.mkdir(parents=True)
    names = ["prompt", "completion", "messages"]
    with (sources / "code.jsonl").open("w") as code, (sources / "chats.jsonl").open("w") as chats:
        for batch in pq.ParquetFile(corpus_of(rows)).iter_batches(columns=names):
            for row in batch.to_pylist():
                turns = row.pop("messages")
                line = json.dumps(row if turns is None else {"messages": turns})
                (code if turns is None else chats).write(line + "\n")
    (sources / "humaneval.jsonl").write_bytes((BENCHMARKS / "humaneval.jsonl").read_bytes())
    fetch = {
        "sources": [{"name": name, **pinned(sources, name, "rows")} for name in ("code", "chats")],
        "benchmarks": {"humaneval": pinned(sources, "humaneval", "humaneval")},
    }
    OmegaConf.save(OmegaConf.create(fetch), folder / "conf/fetch/corpus.yaml")
    (folder / "models").mkdir()
    (folder / MODEL).symlink_to(MODEL.resolve())
    chosen = [
        "fetch=corpus",
        "clean=functions",
        f"clean.rules=[{','.join(every_rule())}]",
        *WIDE,
        "pack.max_length=1024",
    ]
    compose(folder, chosen)


def pinned(folder: Path, name: str, kind: str) -> dict[str, str]:
    with (folder / f"{name}.jsonl").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path = f"data/sources/{name}.jsonl"
    return {"kind": "file", "path": path, "sha256": digest, "format": kind, "licence": "MIT"}
