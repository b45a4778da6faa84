"""A linear layer with a LoRA update, y = W x + s B A x, as one operation with a gradient of its own.

peft's layer for 4-bit weights casts the whole input to the adapter's float32 and copies the output three times. Here
A and B stay in float32 and are cast instead, W is dequantized once in each direction and never kept.
"""

import warnings
from copy import copy
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.autograd import Function


def with_adapter(model: nn.Module, config: LoraConfig) -> Any:
    """Put a new adapter on the layers that `config` names, through peft, with `LoraLinear` as its layer."""
    from bitsandbytes.nn import Linear4bit
    from peft import get_peft_model

    config._register_custom_module({Linear4bit: LoraLinear, nn.Linear: LoraLinear})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in last year's words
        return get_peft_model(model, config)


def dense_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight as (out, in) in `dtype`: dequantized where it is a 4-bit one, directly into `dtype`."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    if state.dtype != dtype:
        state = copy(state)
        state.dtype = dtype
    return dequantize_4bit(weight.data.view(-1, 1), state)


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
        low = low_rows @ a.to(x.dtype).t()
        y = nn.functional.linear(rows, dense_weight(weight, x.dtype), bias)
        y.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(low_rows, low, a, b)
        ctx.weight, ctx.scale, ctx.shape, ctx.shared = weight, scale, x.shape, dropped is None
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        low_rows, low, a, b = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        d_low = dy @ b.to(dy.dtype)
        d_x = d_dropped = None
        if ctx.needs_input_grad[0]:
            d_x = dy @ dense_weight(ctx.weight, dy.dtype)
        if ctx.shared and d_x is not None:
            d_x.addmm_(d_low, a.to(dy.dtype), alpha=ctx.scale)
        elif not ctx.shared and ctx.needs_input_grad[1]:
            d_dropped = (d_low @ a.to(dy.dtype)).mul_(ctx.scale).view(ctx.shape)
        d_a = (d_low.t() @ low_rows).to(a.dtype).mul_(ctx.scale)
        d_b = (dy.t() @ low).to(b.dtype).mul_(ctx.scale)
        return (None if d_x is None else d_x.view(ctx.shape)), d_dropped, None, None, d_a, d_b, None


class LoraLinear(nn.Module, LoraLayer):
    """Takes the place of peft's LoRA layer over `nn.Linear` and bitsandbytes' `Linear4bit`; one adapter at a time."""

    lora_A: Any  # peft is not typed
    lora_B: Any
    lora_dropout: Any
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.get_base_layer()
        if self.disable_adapters:
            return nn.functional.linear(x, dense_weight(base.weight, x.dtype), base.bias)
        name = self.active_adapters[0]
        a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        dropped = dropout(x) if isinstance(dropout, nn.Dropout) and dropout.training else None
        return LoraMatmul.apply(x, dropped, base.weight, base.bias, a.weight, b.weight, self.scaling[name])
