"""bitsandbytes' CUDA kernels: they quantize as the CPU's do, and a layer multiplies by the same weight."""

from typing import Any

import pytest
import torch

from stages.common.model.lora_matmul import FrozenMatmul
from stages.common.model.quantize import Quantization, dense_weight, quantized_weight

pytestmark = pytest.mark.gpu

KINDS = [("nf4", True), ("nf4", False), ("fp4", True), ("int8", False)]


def weights(monkeypatch: pytest.MonkeyPatch, kind: str, double: bool, dtype: str) -> tuple[Any, Any]:
    """One weight, quantized by the CPU and by the GPU."""
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    quantization = Quantization(kind, double, dtype)
    on_gpu = quantized_weight(weight, quantization)
    assert on_gpu.device.type == "cuda"
    monkeypatch.setattr("stages.common.model.quantize.compute_device", lambda: "cpu")
    return quantized_weight(weight, quantization), on_gpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_dequantized_weights_are_those_of_the_cpu(
    kind: str, double: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, on_gpu = (dense_weight(w, torch.float32).cpu() for w in weights(monkeypatch, kind, double, dtype))
    # a value halfway between two levels may round to either; 1% of the scale: nested scales round too
    same = (on_cpu - on_gpu).abs() <= 0.01 * on_cpu.abs().max()
    assert same.float().mean() > 0.999
    assert (on_cpu - on_gpu).abs().max() <= 0.35 * on_cpu.abs().max()  # one level of nf4, at its widest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_a_layer_multiplies_by_its_dequantized_weight_in_both_directions(
    kind: str, double: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(dtype).removeprefix("torch.")
    _, weight = weights(monkeypatch, kind, double, name)
    dense = dense_weight(weight, torch.float32).double()
    x = torch.randn(33, 1024, generator=torch.Generator().manual_seed(1)).to(dtype).cuda().requires_grad_()
    given = torch.randn(33, 256, generator=torch.Generator().manual_seed(2)).to(dtype).cuda()
    y = FrozenMatmul.apply(x, weight, None)
    y.backward(given)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}[dtype]
    for got, wanted in ((y, x.double() @ dense.t()), (x.grad, given.double() @ dense)):
        assert (got.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
