"""Measure the device's peak rate and count a model's useful operations: their ratio is the share of peak."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.common.model.shapes import ModelShapes, gemm_rate, training_flops

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MeasuredPeak:
    """The measured peak of a device, and the operations that a model on it needs."""

    # operations per second of a matrix product, of all processes
    rate: float
    # useful operations for document lengths and a number of labelled tokens
    operations: Callable[[Sequence[int], int], float]
    # measures the rate once more
    again: Callable[[], float]


def measure_peak(
    shapes: ModelShapes, adapter: int, dtype: str, device: "torch.device", seconds: float, ranks: int
) -> MeasuredPeak | None:
    """Time a matrix product on a device, in the dtype that is multiplied there, for about `seconds`.

    Return None for 0 seconds.

    Args:
        shapes: of the base.
        adapter: weights of A and B, of all layers: a pattern may skip single layers.
        dtype: of the training's products.
        ranks: processes that compute at once, each on a device of its own or on its part of the cores.
    """
    if not seconds:
        return None

    def rate() -> float:
        return ranks * gemm_rate(product_dtype_name(dtype, device), device.type, seconds)

    def operations(lengths: Sequence[int], labelled: int) -> float:
        return training_flops(shapes, lengths, labelled, adapter)

    return MeasuredPeak(rate(), operations, rate)


def product_dtype_name(dtype: str, device: "torch.device") -> str:
    """Return torch's name of the dtype in which matrices of `dtype` are multiplied on `device`."""
    import torch

    from stages.common.model.products import product_dtype

    return str(product_dtype(getattr(torch, dtype), device)).removeprefix("torch.")
