"""Detect this machine's memory, GPU and disk."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

CPU_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Hardware:
    """What this machine offers a training."""

    # cpu | cuda
    device: str
    name: str
    # bytes that are free now: of the GPU, or of RAM within a container's limit
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
    """Describe the device that training uses: PyTorch's first GPU (of CUDA_VISIBLE_DEVICES), or the processor."""
    import torch

    from stages.common.model.products import gpu_dtype
    from stages.common.model.quantize import compute_device
    from stages.generation.token_budget import free_bytes

    cores, disk = len(os.sched_getaffinity(0)), shutil.disk_usage(".").free
    device = compute_device()
    memory = free_bytes(torch.device(device))
    if device == "cuda":
        bf16 = gpu_dtype() == "bfloat16"
        return Hardware(device, torch.cuda.get_device_name(), memory, bf16, cores, disk)
    found = CPU_NAME.search(Path("/proc/cpuinfo").read_text("utf-8"))
    return Hardware(device, found[1] if found else "processor", memory, True, cores, disk)
