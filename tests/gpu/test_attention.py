"""Each attention on its kernels: a row gives what its definition gives, and a pack what its documents give alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.model.attention.interface import IMPLEMENTATIONS, SUPPORTED_FEATURES
from stages.common.model.attention.kernels import AttentionSpec, flash_available_on
from stages.common.model.load import load_frozen_model
from stages.common.model.packed_model import PackedModel
from stages.common.model.packs import flatten_packs
from stages.common.model.quantize import Quantization
from stages.train.lora_adapter import add_adapter
from stages.train.settings import Lora
from tests.common.model.test_attention import SHAPES, defined, projections
from tests.helpers.lora_gradients import LENGTHS, gradients, pack, solo_packs

pytestmark = pytest.mark.gpu

# Share of the largest value
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 5e-3}
# `dense` is for CPUs, FlashAttention has no float32
CASES = [
    (name, dtype)
    for name in ("sdpa", "flex", "flash")
    for dtype in TOLERANCE
    if (name, dtype) not in (("flash", torch.float32), ("flex", torch.float16))
]
FLEX_SHAPES = (SHAPES[0], *(shape for shape in SHAPES if shape[0] == LENGTHS and shape[3]))  # each compiles


def require_kernels(name: str, dtype: torch.dtype) -> None:
    if name == "flash" and not flash_available_on(torch.device("cuda", 0)):
        pytest.skip("FlashAttention needs compute capability 8.0")
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("bfloat16 needs compute capability 8.0")


def assert_near(got: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    got, wanted = got.double().cpu(), wanted.double().cpu()
    assert (got - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()  # beyond eight shapes PyTorch compiles no more


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        (name, dtype, shape)
        for name, dtype in CASES
        for shape in (FLEX_SHAPES if name == "flex" else SHAPES)
        if set(shape[3]) <= set(SUPPORTED_FEATURES[name])
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_definition(
    name: str, dtype: torch.dtype, shape: tuple[list[int], int, int, dict[str, Any]]
) -> None:
    require_kernels(name, dtype)
    lengths, heads, groups, asked = shape
    spec = AttentionSpec(tuple(lengths), 0.125, **asked)
    inputs = [t.to(dtype) for t in projections(sum(lengths), heads, groups, 64)]
    exact = [t.double().requires_grad_() for t in inputs]
    wanted = defined(*exact, spec)
    given = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.autograd.grad(wanted, exact, given.double())
    own = [t.detach().cuda().requires_grad_() for t in inputs]
    ours = IMPLEMENTATIONS[name](*own, spec)
    assert_near(ours, wanted, dtype)
    for got, one in zip(torch.autograd.grad(ours, own, given.cuda()), expected, strict=True):
        assert_near(got, one, dtype)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "dtype"), [("auto", torch.float32), ("auto", torch.bfloat16), *CASES])
def test_a_pack_gives_the_loss_and_gradients_of_its_documents(
    tiny_model: Path, name: str, dtype: torch.dtype, checkpointing: bool
) -> None:
    require_kernels(name, dtype)
    base = load_frozen_model(tiny_model, Quantization("none", False, str(dtype).removeprefix("torch.")))
    if name == "flash" and base.config.head_dim % 8:
        pytest.skip("heads of the tiny model are no multiple of 8")
    adapted = add_adapter(base, Lora(rank=4, alpha=8), seed=0)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    model = PackedModel(adapted, name).train()
    if checkpointing:
        base.activation_checkpointing_enable()
    whole = pack(LENGTHS)
    together = model(**flatten_packs([whole]))
    together.backward()
    of_pack, losses = gradients(model), []
    for part in solo_packs(whole):
        losses.append(model(**flatten_packs([part])))
        losses[-1].backward()
    assert_near(together.detach(), torch.stack(losses).sum().detach(), dtype)
    largest = max(float(one.abs().max()) for one in of_pack)
    for first, second in zip(of_pack, gradients(model), strict=True):
        assert (first - second).abs().max() <= TOLERANCE[dtype] * largest
