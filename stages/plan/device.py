"""What this machine has: memory, GPU, disk, and the rate of the products that training is made of."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.model.shapes import linear_shapes

CGROUP = Path("/sys/fs/cgroup/memory.max")
GPU_BF16 = 8.0  # compute capability from which CUDA devices have bfloat16 products
CALIBRATION_ROWS = 512  # tokens of the products that are timed


@dataclass(frozen=True)
class Machine:
    device: str  # cpu | cuda
    name: str
    memory: int  # bytes that training can have: of the GPU, else of RAM that is free now
    bf16: bool  # whether bfloat16 costs nothing here: a CPU without such products multiplies in float32
    cores: int
    disk: int  # bytes free where the project is

    @property
    def where(self) -> str:
        return "GPU memory" if self.device == "cuda" else "RAM"


def machine() -> Machine:
    """This machine; the first GPU that `nvidia-smi` names, else the processor."""
    cores, disk = len(os.sched_getaffinity(0)), shutil.disk_usage(".").free
    gpu = first_gpu()
    if gpu:
        name, memory, capability = gpu
        return Machine("cuda", name, memory, capability >= GPU_BF16, cores, disk)
    info = read("/proc/cpuinfo")
    name = after(info, "model name") or "processor"
    return Machine("cpu", name, free_memory(), True, cores, disk)


def first_gpu() -> tuple[str, int, float] | None:
    """Name, bytes of memory and compute capability."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        name, memory, capability = done.stdout.splitlines()[0].rsplit(",", 2)
        return name.strip(), int(memory) << 20, float(capability)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def free_memory() -> int:
    """Bytes of RAM that a new process can have, a container's limit considered."""
    available = int(after(read("/proc/meminfo"), "MemAvailable").split()[0] or 0) << 10
    limit = read(CGROUP).strip()
    return min(available, int(limit)) if limit.isdigit() else available


def after(text: str, key: str) -> str:
    """The value of the first `key: value` line; empty where there is none."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def product_rate(
    config: Mapping[str, Any], dtype: str, device: str, threads: int, seconds: float = 1.5
) -> float:
    """Floating-point operations a second of products of the model's own shapes.

    A layer's products of `CALIBRATION_ROWS` tokens are timed in turn until `seconds` are over; the best turn counts.

    Args:
        dtype: of the training, bfloat16 or float32.
        threads: of the processor; 0: one a core.
    """
    import torch

    from stages.common.model.products import product_dtype

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    kind = product_dtype(getattr(torch, dtype), torch.device(device))
    shapes = linear_shapes(config).values()
    pairs = [
        (torch.randn(CALIBRATION_ROWS, a, device=device).to(kind), torch.randn(a, b, device=device).to(kind))
        for a, b in set(shapes)
    ]
    operations = sum(2 * CALIBRATION_ROWS * x.shape[1] * w.shape[1] for x, w in pairs)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        for x, w in pairs:
            x @ w
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > end:
            return operations / best
