"""Places for points that run on one machine at the same time: a GPU each, without GPUs a share of the cores."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

WAIT_SECONDS = 0.2
Item = TypeVar("Item")


def visible_gpus() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may name here: its own entries where it is set, else every GPU's UUID."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return tuple(re.findall(r"UUID: (GPU-[\w-]+)", listed))


def places_for(launched: int, points: int, at_once: int, gpus: int, cores: int) -> int:
    """How many points may run here at the same time.

    Args:
        launched: jobs that the launcher starts at the same time; 0: all.
        points: of the sweep.
        at_once: the setting `sweep.at_once`; 0: not set.
        gpus: of this machine.
        cores: of this machine.
    """
    if at_once:
        return at_once
    return max(1, min(launched or points, points, gpus or cores))


@contextmanager
def place(folder: Path, places: int, gpus: Sequence[str]) -> Iterator[None]:
    """Wait for one of `places` on this machine, and keep what this process starts in the block to it.

    Cores are shared by affinity, which every stage takes its number of threads and workers from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, number = first_free(folder, places)
    everything = cores()
    own, before = share(everything, number, places), dict(os.environ)
    try:
        if own:
            os.sched_setaffinity(0, own)
        if places > 1 and own:
            os.environ["OMP_NUM_THREADS"] = str(len(own))
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(gpus, number, places))
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if own:
            with suppress(OSError):
                os.sched_setaffinity(0, everything)
        file.close()  # gives the place back


def first_free(folder: Path, places: int) -> tuple[IO[str], int]:
    """A locked file and its number, as soon as one of `places` is free on this host."""
    said = False
    while True:
        for number in range(places):
            file = (folder / f"{platform.node()}-{number}.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return file, number
        if not said:
            print("sweep: another point works on this machine; waiting until it ends", flush=True)
            said = True
        time.sleep(WAIT_SECONDS)


def cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def share(them: Sequence[Item], number: int, places: int) -> list[Item]:
    """Cores or GPUs of place `number`: as many for each, all in use; with more places than there are they take turns.

    >>> share([0, 1, 2, 3, 4], 1, 2)
    [1, 3]
    """
    return list(them[number % len(them) :: places]) if them else []
