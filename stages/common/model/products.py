"""Choose the dtype in which this processor multiplies matrices of bfloat16 and float16.

A product of two such numbers is exact in float32, and sums are made in float32 either way: widening the factors
first changes only the order of additions. Which way is faster depends on the processor alone, so the choice is a rule,
not a measurement: two runs on one machine must give the same bytes.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

GPU_BFLOAT16 = (8, 0)  # least compute capability with products of bfloat16


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to which matrices of `dtype` are widened before a product on `device`; often `dtype` itself."""
    if dtype not in (torch.bfloat16, torch.float16) or device.type != "cpu":
        return dtype
    if dtype == torch.float16:  # most processors emulate it, and are far slower
        return torch.float32
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def is_widened(factor: torch.Tensor) -> bool:
    """Return whether a matrix that is not quantized is multiplied in another dtype than its own."""
    return product_dtype(factor.dtype, factor.device) != factor.dtype


@cache
def multiplies_bfloat16() -> bool:
    """Return whether this processor's bfloat16 products are faster than its float32 products."""
    return has_fast_bfloat16(torch.cpu.get_capabilities())


def gpu_dtype() -> str:
    """Return the 16-bit dtype for a GPU: bfloat16, or float16 where the current one cannot multiply that."""
    old = torch.cuda.is_available() and torch.cuda.get_device_capability() < GPU_BFLOAT16
    return "float16" if old else "bfloat16"


def has_fast_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Decide from torch.cpu.get_capabilities() whether bfloat16 products are faster than float32 products.

    With AMX, and with AVX512-BF16 on AMD, bfloat16 is faster (2.5 times on an EPYC [measured]). Intel's AVX512-BF16
    without AMX, which virtual machines often hide, reaches half the rate of float32 [measured]; x86 without either
    emulates it. Other architectures keep bfloat16: not measured.
    """
    if capabilities.get("architecture") != "x86_64" or capabilities.get("amx_bf16"):
        return True
    return bool(capabilities.get("avx512_bf16")) and "Intel" not in str(capabilities.get("cpu_name"))
