"""Slots for points that run at the same time on one machine: each has its own GPU or, without GPUs, its cores."""

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
Device = TypeVar("Device")  # a core's number or a GPU's name


def visible_gpus() -> tuple[str, ...]:
    """Return the entries of CUDA_VISIBLE_DEVICES, or the UUIDs of all GPUs if it is not set."""
    preset = os.environ.get("CUDA_VISIBLE_DEVICES")
    if preset is not None:
        return tuple(part.strip() for part in preset.split(",") if part.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return tuple(re.findall(r"UUID: (GPU-[\w-]+)", listing))


def count_slots(launched: int, points: int, at_once: int, gpus: int, cores: int) -> int:
    """Return how many points may run on this machine at the same time.

    Args:
        launched: jobs that the launcher runs at the same time; 0: all.
        points: points of the sweep.
        at_once: the setting `sweep.at_once`; 0: not set.
        gpus: GPUs of this machine.
        cores: cores of this machine.
    """
    if at_once:
        return at_once
    return max(1, min(launched or points, points, gpus or cores))


@contextmanager
def hold_slot(folder: Path, slots: int, gpus: Sequence[str]) -> Iterator[None]:
    """Wait for one of `slots` on this machine, and keep processes started in the block to its cores and GPUs.

    Cores are shared by CPU affinity: every stage takes its number of threads and workers from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, slot = wait_for_slot(folder, slots)
    all_cores = usable_cores()
    own_cores, old_environment = slot_share(all_cores, slot, slots), dict(os.environ)
    try:
        if own_cores:
            os.sched_setaffinity(0, own_cores)
        if slots > 1 and own_cores:
            os.environ["OMP_NUM_THREADS"] = str(len(own_cores))
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot_share(gpus, slot, slots))
        yield
    finally:
        os.environ.clear()
        os.environ.update(old_environment)
        if own_cores:
            with suppress(OSError):
                os.sched_setaffinity(0, all_cores)
        file.close()  # frees the slot


def wait_for_slot(folder: Path, slots: int) -> tuple[IO[str], int]:
    """Return a locked file and the slot's number, as soon as one of `slots` is free on this host."""
    announced = False
    while True:
        for slot in range(slots):
            file = (folder / f"{platform.node()}-{slot}.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return file, slot
        if not announced:
            print("sweep: other points occupy this machine; waiting for one to finish", flush=True)
            announced = True
        time.sleep(WAIT_SECONDS)


def usable_cores() -> list[int]:
    """Return the cores that this process may use; empty if the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def slot_share(devices: Sequence[Device], slot: int, slots: int) -> list[Device]:
    """Return the cores or GPUs of a slot. All are in use, evenly; if there are more slots, they share in turn.

    >>> slot_share([0, 1, 2, 3, 4], 1, 2)
    [1, 3]
    """
    return list(devices[slot % len(devices) :: slots]) if devices else []
