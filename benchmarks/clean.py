"""Minutes of the clean stage as a user runs it, on a generated corpus in a project folder of its own, every rule on.

Peaks of memory are the kernel's (VmHWM), read of every process of the stage fifty times a second; a process shorter than
that is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.corpora import BENCHMARKS, corpus_of
from benchmarks.tell import Part

REPOSITORY = Path(__file__).parent.parent
TICK = 0.02  # seconds
WIDE = (
    "clean.length.max_lines=200",
    "clean.length.max_characters=20000",
)  # the preset's are for a small model


@dataclass
class Cost:
    """Of one run of the stage; memory in bytes."""

    rows: int
    seconds: float = 0.0
    cpu: float = 0.0
    driver: int = 0  # peak of the driver
    worker: int = 0  # peak of its largest child
    children: int = 0  # processes seen beside the driver
    disk: int = 0  # most that its folder grew by, looked at once a second
    together: int = 0  # peak of the sum of resident memory, pages that they share counted for each
    metrics: dict = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the stage"
    )


def run(given: argparse.Namespace) -> list[Part]:
    head()
    cost = measured(given.rows, given.workers, given.set)
    funnel(cost)
    minutes = cost.seconds / 60
    what = f"clean, {given.rows:,} rows, {given.workers} workers"
    million = minutes * 1e6 / given.rows
    note = "" if given.rows == 1_000_000 else f", {million:.1f} min per million"
    return [
        Part(
            what,
            f"{minutes:.1f} min{note}",
            "-",
            f"{cost.rows / cost.seconds:,.0f} rows/s",
            "10 min per million",
        )
    ]


def head() -> None:
    print(
        f"{'rows':>10}{'wall s':>9}{'cpu s':>9}{'rows/s':>9}{'driver MiB':>12}{'worker MiB':>12}"
        f"{'together MiB':>14}{'processes':>11}{'kept':>10}",
        flush=True,
    )


def measured(rows: int, workers: int, settings: list[str]) -> Cost:
    """Run the stage over a corpus of that many rows and print what it took."""
    source = corpus_of(rows)
    with tempfile.TemporaryDirectory(dir=source.parent) as name:
        folder = Path(name)
        project(folder, source, workers, settings)
        cost = watch(
            stage_command("clean", f"engine.workers={workers}"), folder, pq.read_metadata(source).num_rows
        )
        cost.metrics = json.loads((folder / "reports/clean.json").read_text())
        kept = pq.read_metadata(folder / "data/clean/rows.parquet").num_rows
        lost = pq.read_metadata(folder / "data/clean/dropped.parquet").num_rows
    if kept + lost != rows:
        sys.exit(f"error: {rows} rows in, {kept} kept and {lost} dropped")
    print(
        f"{rows:>10,}{cost.seconds:>9.1f}{cost.cpu:>9.1f}{rows / cost.seconds:>9,.0f}{cost.driver / 2**20:>12,.0f}"
        f"{cost.worker / 2**20:>12,.0f}{cost.together / 2**20:>14,.0f}{cost.children + 1:>11}{kept:>10,}",
        flush=True,
    )
    return cost


def stage_command(stage: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{stage}", *overrides]


def project(folder: Path, source: Path, workers: int, settings: list[str]) -> None:
    """A project with that corpus as data/raw, and its configuration composed."""
    copied(folder)
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/benchmarks").symlink_to(BENCHMARKS.resolve())
    os.link(source, folder / "data/raw/rows.parquet")
    rules = every_rule()
    chosen = [f"clean.rules=[{','.join(rules)}]", *WIDE, *settings]
    compose(folder, ["clean=functions", *chosen])


def copied(folder: Path) -> None:
    """What a project's configuration is composed from."""
    for name in ("conf", "dvc.yaml", "params.yaml"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)


def compose(folder: Path, chosen: list[str]) -> None:
    command = [sys.executable, "-m", "stages.config", *chosen]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr}")


def every_rule() -> list[str]:
    """All rules on single rows that the stage has."""
    from stages.clean.settings import ROW_RULES

    return list(ROW_RULES)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY.resolve())}


def watch(command: list[str], folder: Path, rows: int) -> Cost:
    """Run a command and watch the memory of all its processes."""
    cost = Cost(rows)
    peaks: dict[int, int] = {}
    started = looked = time.perf_counter()
    before = size_of(folder)
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=output, stderr=output)
        try:
            while True:
                peak, now = memory_of(family(process.pid))
                for pid, value in peak.items():
                    peaks[pid] = max(value, peaks.get(pid, 0))
                cost.together = max(cost.together, now)
                if time.perf_counter() - looked > 1:
                    cost.disk = max(cost.disk, size_of(folder) - before)
                    looked = time.perf_counter()
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                time.sleep(TICK)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    cost.seconds = time.perf_counter() - started
    cost.disk = max(cost.disk, size_of(folder) - before)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}\n{(folder / 'output.txt').read_text()[-3000:]}")
    cost.cpu = usage.ru_utime + usage.ru_stime
    cost.driver = peaks.pop(process.pid)
    cost.worker, cost.children = max(peaks.values(), default=0), len(peaks)
    return cost


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder, links aside; a file that goes meanwhile has none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def family(pid: int) -> list[int]:
    """A process and all processes below it."""
    found = [pid]
    for each in found:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def memory_of(pids: list[int]) -> tuple[dict[int, int], int]:
    """(peak of each process, resident memory of all now) in bytes."""
    peaks, together = {}, 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        figures = dict(line.split(":", 1) for line in lines)
        if "VmHWM" in figures:
            peaks[pid] = int(figures["VmHWM"].split()[0]) * 1024
            together += int(figures["VmRSS"].split()[0]) * 1024
    return peaks, together


def funnel(cost: Cost) -> None:
    """Rows dropped by each rule, as the stage counts them."""
    dropped = cost.metrics.get("dropped") or {}
    for rule, count in dropped.items():
        print(f"  {rule:<28}{count if isinstance(count, int) else sum(count.values()):>10,}")
