"""Products of bfloat16 matrices: which dtype a processor multiplies in, and that the widened product is the same."""

from typing import Any

import pytest
import torch
from torch import nn

from stages.common.model.attention.dense import DenseDocuments
from stages.common.model.lora_matmul import FrozenMatmul, LoraMatmul
from stages.common.model.loss import Head, HeadLoss
from stages.common.model.products import has_fast_bfloat16, product_dtype

INTEL, AMD = "Intel Xeon", "AMD EPYC"


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"architecture": "x86_64", "cpu_name": INTEL, "avx512_bf16": True, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "cpu_name": INTEL, "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "cpu_name": INTEL, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "cpu_name": AMD, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "cpu_name": AMD}, False),
        ({"architecture": "aarch64"}, True),
        ({}, True),
    ],
)
def test_the_rule_by_processor(capabilities: dict[str, Any], fast: bool) -> None:
    assert has_fast_bfloat16(capabilities) is fast


def test_only_bfloat16_on_a_processor_is_ever_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for fast in (True, False):
        monkeypatch.setattr("stages.common.model.products.multiplies_bfloat16", lambda fast=fast: fast)
        assert product_dtype(torch.bfloat16, cpu) == (torch.bfloat16 if fast else torch.float32)
        assert product_dtype(torch.bfloat16, cuda) == torch.bfloat16
        assert product_dtype(torch.float32, cpu) == torch.float32


def adapter(x: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    weight = torch.randn(24, 32).to(x.dtype)
    bias = torch.randn(24).to(x.dtype)
    (y,) = LoraMatmul.apply(x, dropped, [(weight, bias, 0.5)], torch.randn(4, 32), torch.randn(24, 4))
    return y


def head_of(x: torch.Tensor) -> Head:
    return Head(torch.randn(50, 32).to(x.dtype).to(product_dtype(x.dtype, x.device)))


CALLS = {
    "LoRA": lambda x: adapter(x, None),
    "LoRA with dropout": lambda x: adapter(x, nn.functional.dropout(x, 0.5)),
    "frozen": lambda x: FrozenMatmul.apply(x, torch.randn(24, 32).to(x.dtype), torch.randn(24).to(x.dtype)),
    "loss": lambda x: HeadLoss.apply(x[0], head_of(x), torch.arange(40), True),
    "attention": lambda x: DenseDocuments.apply(
        *(x.unflatten(2, (-1, 8)).transpose(1, 2)[:, :heads] for heads in (4, 2, 2)), (17, 23), 0.3
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_either_way_gives_the_float32_result_as_near_as_bfloat16_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients in bfloat16, multiplied in bfloat16 and widened, against all of it in float32."""
    torch.manual_seed(1)
    start = torch.randn(1, 40, 32).bfloat16()

    def found(dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = start.to(dtype).requires_grad_()
        y = CALLS[name](x)
        torch.manual_seed(2)
        (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape).to(y.dtype))
        assert gradient.dtype == dtype
        return [y.detach().float(), gradient.float()]

    exact = found(torch.float32)
    errors = []
    for fast in (True, False):
        monkeypatch.setattr("stages.common.model.products.multiplies_bfloat16", lambda fast=fast: fast)
        pairs = list(zip(found(torch.bfloat16), exact, strict=True))
        errors.append([float((a - b).norm() / b.norm()) for a, b in pairs])
        assert max(errors[-1]) < 0.02
    assert all(wide <= 1.05 * narrow for narrow, wide in zip(*errors, strict=True))
