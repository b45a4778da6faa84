"""Detect this machine's memory, GPU and disk, and time the matrix products that training consists of."""

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
GPU_BF16 = 8.0  # least compute capability with bfloat16 products
CALIBRATION_ROWS = 512  # tokens in each timed product


@dataclass(frozen=True)
class Hardware:
    """What this machine offers a training."""

    # cpu | cuda
    device: str
    name: str
    # bytes available to training: all of the GPU's, or the RAM that is free now
    memory: int
    # whether training in bfloat16 costs nothing extra; a CPU without such products multiplies in float32
    bf16: bool
    cores: int
    # bytes free on the project's disk
    disk: int

    @property
    def memory_name(self) -> str:
        return "GPU memory" if self.device == "cuda" else "RAM"


def detect_hardware() -> Hardware:
    """Describe this machine: the first GPU that `nvidia-smi` lists, or else the processor."""
    cores, disk = len(os.sched_getaffinity(0)), shutil.disk_usage(".").free
    gpu = first_gpu()
    if gpu:
        name, memory, capability = gpu
        return Hardware("cuda", name, memory, capability >= GPU_BF16, cores, disk)
    name = value_of(read_text("/proc/cpuinfo"), "model name") or "processor"
    return Hardware("cpu", name, free_memory(), True, cores, disk)


def first_gpu() -> tuple[str, int, float] | None:
    """Return name, bytes of memory and compute capability; None without a GPU."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        name, memory, capability = done.stdout.splitlines()[0].rsplit(",", 2)
        return name.strip(), int(memory) << 20, float(capability)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def free_memory() -> int:
    """Return the bytes of RAM that a new process can use, within a container's limit."""
    available = int(value_of(read_text("/proc/meminfo"), "MemAvailable").split()[0] or 0) << 10
    limit = read_text(CGROUP).strip()
    return min(available, int(limit)) if limit.isdigit() else available


def value_of(text: str, key: str) -> str:
    """Return the value of the first `key: value` line, empty if there is none."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def read_text(path: str | Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def measure_product_rate(
    config: Mapping[str, Any], dtype: str, device: str, threads: int, seconds: float = 1.5
) -> float:
    """Measure the floating-point operations per second of products of the model's own shapes.

    All products of a layer, of `CALIBRATION_ROWS` tokens, are timed again and again for `seconds`; the
    fastest turn counts.

    Args:
        dtype: of the training, bfloat16 or float32.
        threads: of the processor; 0: one per core.
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
