"""The table at the end of a run, the machine it ran on, and clocks."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One line of the table."""

    what: str
    ours: str
    theirs: str
    result: str
    asked: str


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}x" if theirs else "-"


def table_of(parts: Sequence[Part]) -> str:
    rows = [
        ("what", "ours", "theirs", "result", "at least"),
        *((p.what, p.ours, p.theirs, p.result, p.asked) for p in parts),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def machine(packages: Sequence[str] = ("pyarrow", "numpy", "tokenizers")) -> str:
    """Cores, memory, versions: what figures depend on."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cores} cores ({model.partition(': ')[2] or platform.machine()}), {memory:.0f} GiB; Python {platform.python_version()}, {names}"


class Clock:
    """Seconds of wall and of all processors, children that ended included."""

    wall = cpu = 0.0

    def save(self, folder: Path) -> None:
        (folder / "cost.json").write_text(json.dumps({"wall": self.wall, "cpu": self.cpu}))


@contextmanager
def clock() -> Iterator[Clock]:
    taken, wall, cpu = Clock(), time.perf_counter(), processor_seconds()
    yield taken
    taken.wall, taken.cpu = time.perf_counter() - wall, processor_seconds() - cpu


def memory_at_hand(gib: int = 6) -> None:
    """Have a child use this much memory and give it back, so that the kernel has it when the next program asks.

    A virtual machine's host takes back what is free for some seconds, and finds it again page by page: the first 1.6 GB
    written to a file took 3.7 s, the next 0.3 s [measured].
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    subprocess.run([sys.executable, "-c", f"b'1' * {min(gib << 30, free // 2)}"], check=True)


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
