"""Measure the device's peak rate and count a model's useful operations: their ratio is the share of peak."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.model.shapes import gemm_rate, training_flops

if TYPE_CHECKING:
    import torch
    from torch import nn

Operations = Callable[[Sequence[int], int], float]


@dataclass(frozen=True)
class MeasuredPeak:
    """The measured peak of a device, and the operations that a model on it needs."""

    # operations per second of a matrix product, measured
    rate: float
    # useful operations for document lengths and a number of labelled tokens; None: shapes unknown
    operations: Operations | None


def measure_peak(
    model: "nn.Module", config: dict[str, Any], dtype: str, seconds: float = 1.0
) -> MeasuredPeak | None:
    """Time a matrix product on the model's device, in the dtype that is multiplied there, for about `seconds`.

    Return None for 0 seconds.

    Args:
        model: with its adapter.
        config: config.json of the base.
        dtype: of the training's products.
    """
    if not seconds:
        return None
    device = next(model.parameters()).device
    rate = gemm_rate(product_dtype_name(dtype, device), device.type, seconds)
    return MeasuredPeak(rate, useful_operations(model, config))


def product_dtype_name(dtype: str, device: "torch.device") -> str:
    """Return torch's name of the dtype in which matrices of `dtype` are multiplied on `device`."""
    import torch

    from stages.common.model.products import product_dtype

    return str(product_dtype(getattr(torch, dtype), device)).removeprefix("torch.")


def useful_operations(model: "nn.Module", config: dict[str, Any]) -> Operations | None:
    """Return a counter like `training_flops`, the adapter's part by its weights: a pattern may skip single layers."""
    parts = (".lora_A.", ".lora_B.")
    weights = sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))

    def operations(lengths: Sequence[int], labelled: int) -> float:
        return training_flops(config, lengths, labelled, rank=0) + 6 * sum(lengths) * weights

    try:
        operations([1], 1)
    except UserError:
        return None
    return operations


def memory_mib() -> float | None:
    """Return the memory this process holds now, in MiB: on the CUDA device, else resident; None: unknown."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.memory_reserved() / 2**20)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return round(next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024)
    except OSError:
        return None
