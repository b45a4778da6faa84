"""A linear layer with a LoRA update, y = W x + s B A x, as one operation with a gradient of its own.

peft's layer for 4-bit weights casts the whole input to the adapter's float32 and copies the output three times. Here
A and B stay in float32 and are cast instead, W is dequantized once in each direction and never kept. Quantized layers
without an adapter compute with the same dequantized weight, so that `dense_weight` is what every layer multiplies by.
"""

import warnings
from copy import copy
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraVariant
from torch import nn
from torch.autograd import Function

from stages.common.products import product_dtype


def with_adapter(model: nn.Module, config: LoraConfig) -> Any:
    """Put a new adapter on the layers that `config` names, through peft, with `LoraLinear` as its layer."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from peft import get_peft_model

    config._register_custom_module(dict.fromkeys((Linear4bit, Linear8bitLt, nn.Linear), LoraLinear))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in last year's words
        warnings.filterwarnings(
            "ignore", "lora with eva"
        )  # advice to load without memory, which none is short of
        return get_peft_model(model, config)


def dense_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight as (out, in) in `dtype`: dequantized where it is of 4 or 8 bits, rounded once."""
    scales = getattr(weight, "SCB", None)
    if scales is not None:  # int8: the largest of each row is 127
        return (weight.detach() * (scales / 127)[:, None]).to(dtype)
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    if state.dtype != dtype:
        state = copy(state)
        state.dtype = dtype
    return dequantize_4bit(weight.data.view(-1, 1), state)


def factor_weight(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`dense_weight` in x's dtype, as a factor of a product with x: widened where the processor wants it so."""
    return dense_weight(weight, x.dtype).to(product_dtype(x.dtype, x.device))


def is_quantized(weight: Any) -> bool:
    """Whether a parameter is one of bitsandbytes, of 4 or 8 bits."""
    return any(getattr(weight, name, None) is not None for name in ("quant_state", "SCB"))


def low_rank(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """s B A, float32 (out, in), of A (rank, in) and B (out, rank)."""
    return (b.detach().float() @ a.detach().float()).mul_(scale)


def updated_weight(
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    magnitude: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weight that a layer with an adapter is: V = W + s B A, or with DoRA each row of V at its magnitude.

    Args:
        weight: W, float32 (out, in), dequantized.
        magnitude: (out,), or None without DoRA (arXiv:2402.09353).

    Returns:
        float32 (out, in).
    """
    updated = low_rank(a, b, scale).add_(weight)
    if magnitude is not None:
        updated.mul_((magnitude.detach() / updated.norm(dim=1))[:, None])
    return updated


def freeze(model: nn.Module) -> None:
    """Let quantized layers multiply by `dense_weight`, in training and evaluation alike.

    bitsandbytes' own layers do not: int8 quantizes the inputs too, though on a CPU in evaluation only.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, nn.Linear) and is_quantized(m.weight)]
    for layer in layers:
        layer.forward = lambda x, layer=layer: FrozenMatmul.apply(x, layer.weight, layer.bias)


class FrozenMatmul(Function):
    """y = x W^T + bias with a frozen W, dequantized in each direction and never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        wide = factor_weight(weight, x)
        return nn.functional.linear(x.to(wide.dtype), wide, None if bias is None else bias.to(wide.dtype)).to(
            x.dtype
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = gradients[0]
        weight = factor_weight(ctx.weight, dy)
        return (dy.to(weight.dtype) @ weight).to(dy.dtype), None, None


class LoraMatmul(Function):
    """y = x W^T + bias + scale (x' A^T) B^T; x' is the input after dropout, or None for x itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low_rows = rows if dropped is None else dropped.reshape(rows.shape)
        wide = factor_weight(weight, x)
        kind = wide.dtype
        narrow_a, narrow_b = (matrix.to(x.dtype).to(kind) for matrix in (a, b))
        factor = rows.to(kind)
        low = (factor if dropped is None else low_rows.to(kind)) @ narrow_a.t()
        y = nn.functional.linear(factor, wide, None if bias is None else bias.to(kind))
        y.addmm_(low, narrow_b.t(), alpha=scale)
        ctx.save_for_backward(low_rows, low, narrow_a, narrow_b)
        ctx.weight, ctx.scale, ctx.shape, ctx.shared = weight, scale, x.shape, dropped is None
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        low_rows, low, a, b = ctx.saved_tensors
        given = gradients[0].reshape(-1, gradients[0].shape[-1])
        dy = given.to(a.dtype)
        d_low = dy @ b
        d_x = d_dropped = None
        if ctx.needs_input_grad[0]:
            d_x = dy @ factor_weight(ctx.weight, given)
        if ctx.shared and d_x is not None:
            d_x.addmm_(d_low, a, alpha=ctx.scale)
        elif not ctx.shared and ctx.needs_input_grad[1]:
            d_dropped = (d_low @ a).mul_(ctx.scale).to(given.dtype).view(ctx.shape)
        d_a = (d_low.t() @ low_rows.to(a.dtype)).float().mul_(ctx.scale)
        d_b = (dy.t() @ low).float().mul_(ctx.scale)
        return (
            (None if d_x is None else d_x.to(given.dtype).view(ctx.shape)),
            d_dropped,
            None,
            None,
            d_a,
            d_b,
            None,
        )


class LoraLinear(nn.Module, LoraLayer):
    """Takes the place of peft's LoRA layers over `nn.Linear` and those of bitsandbytes; one adapter at a time."""

    base_layer: Any  # peft is not typed
    lora_A: Any
    lora_B: Any
    lora_magnitude_vector: Any
    lora_dropout: Any
    in_features: Any
    scaling: Any
    update_layer: Any
    get_base_layer: Any
    active_adapters: Any

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: LoraConfig,
        r: int = 0,
        lora_alpha: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self.fan_in_fan_out = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        """Where peft puts a new adapter: it is drawn in float32 and never rounded to the base's dtype."""
        return self.get_base_layer().weight.device, torch.float32

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        return {(): None, ("use_dora",): DoraVariant}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.get_base_layer()
        if self.disable_adapters:
            return FrozenMatmul.apply(x, base.weight, base.bias)
        name = self.active_adapters[0]
        a, b, dropout = self.lora_A[name].weight, self.lora_B[name].weight, self.lora_dropout[name]
        dropped = dropout(x) if isinstance(dropout, nn.Dropout) and dropout.training else None
        if name in self.lora_magnitude_vector:
            return self.dora(x, dropped, self.lora_magnitude_vector[name].weight)
        return LoraMatmul.apply(x, dropped, base.weight, base.bias, a, b, self.scaling[name])

    def dora(self, x: torch.Tensor, dropped: torch.Tensor | None, magnitude: torch.Tensor) -> torch.Tensor:
        """peft's DoRA: W x + (g - 1) W x' + g s B A x' + bias, g = magnitude / norm of each row of W + s B A.

        The norm is a constant to the gradient (section 4.3 of arXiv:2402.09353); x' is x after dropout.
        """
        base, name = self.get_base_layer(), self.active_adapters[0]
        a, b, scale = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        with torch.no_grad():
            norm = row_norm(base.weight, a, b, scale)
        y = LoraMatmul.apply(x, dropped, base.weight, None, a, b, scale)
        inner = y if dropped is None else LoraMatmul.apply(dropped, None, base.weight, None, a, b, scale)
        y = y + (magnitude / norm - 1).to(x.dtype) * inner
        return y if base.bias is None else y + base.bias

    def trained_weight(self) -> torch.Tensor:
        """The weight (out, in) that this layer multiplies by, unrounded: float32."""
        name = self.active_adapters[0]
        magnitude = self.lora_magnitude_vector[name].weight if name in self.lora_magnitude_vector else None
        weight = dense_weight(self.get_base_layer().weight, torch.float32)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return updated_weight(weight, a, b, self.scaling[name], magnitude)


def row_norm(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Norm of each row of W + s B A, float32 (out,); W may be quantized."""
    return low_rank(a, b, scale).add_(dense_weight(weight, torch.float32)).norm(dim=1)


class DoraVariant(LoraVariant):
    """Gives a layer its magnitudes, which begin as the norms of its rows; its `forward` computes with them."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        magnitude = DoraLinearLayer(fan_in_fan_out=False)
        a, b = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        with torch.no_grad():
            norm = row_norm(module.get_base_layer().weight, a, b, module.scaling[adapter_name])
        magnitude.weight = nn.Parameter(norm)
        module.lora_magnitude_vector[adapter_name] = magnitude
