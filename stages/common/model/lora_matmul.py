"""Products with frozen weights, plain and with a LoRA update, as autograd functions with their own gradients.

peft's layer for 4-bit weights casts the whole input to the adapter's float32 and copies the output three times. Here
A and B, kept in float32, are cast instead; W is dequantized once in each direction and never kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import linear

from stages.common.model.products import product_dtype
from stages.common.model.quantize import product_weight

FrozenLayer = tuple[torch.Tensor, torch.Tensor | None, float]  # weight, bias, scale of the layer's update
Gradient = torch.Tensor | None


class FrozenMatmul(Function):
    """y = x W^T + bias with a frozen W, dequantized in each direction and never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        wide = product_weight(weight, x)
        return linear(x.to(wide.dtype), wide, cast_bias(bias, wide)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Gradient, ...]:
        dy = gradients[0]
        weight = product_weight(ctx.weight, dy)
        return (dy.to(weight.dtype) @ weight).to(dy.dtype), None, None


class LoraMatmul(Function):
    """y = x W^T + bias + scale (x' A^T) B^T for each of several layers that read one x.

    Shared work is done once: x is cast once, the products with all A are one product, and the gradients of x are
    accumulated in the products that compute them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        layers: Sequence[FrozenLayer],
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return one y per layer.

        Args:
            dropped: x', the input after dropout; None: x itself.
            adapters: A (rank, in) and B (out, rank) of each layer, in turn, all of one dtype.
        """
        kind, rows = product_dtype(x.dtype, x.device), x.reshape(-1, x.shape[-1])
        low_rows = rows if dropped is None else dropped.reshape(rows.shape)
        factor = rows.to(kind)
        a = torch.cat([matrix.to(kind) for matrix in adapters[::2]])
        bs = [matrix.to(kind) for matrix in adapters[1::2]]
        low = (factor if dropped is None else low_rows.to(kind)) @ a.t()
        outputs = []
        for (weight, bias, scale), own, b in zip(layers, split_by_layer(low, bs), bs, strict=True):
            # not a view of the product: a layer may change it in place, as Gemma 3n's does
            y = linear(factor.view(*x.shape[:-1], -1), product_weight(weight, x), cast_bias(bias, factor))
            y.view(-1, y.shape[-1]).addmm_(own, b.t(), alpha=scale)
            outputs.append(y.to(x.dtype))
        ctx.save_for_backward(low_rows, low, a, *bs)
        ctx.layers, ctx.shape, ctx.shared = layers, x.shape, dropped is None
        ctx.dtype = adapters[0].dtype
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        low_rows, low, a, *bs = ctx.saved_tensors
        given, lows = gradients[0], split_by_layer(low, bs)
        d_x: Gradient = None
        d_lows, d_bs = [], []
        for (weight, _, scale), d_output, own, b in zip(ctx.layers, gradients, lows, bs, strict=True):
            dy = d_output.reshape(-1, d_output.shape[-1]).to(a.dtype)
            d_lows.append((dy @ b).mul_(scale))
            d_bs.append((own.t() @ dy).t().to(ctx.dtype).mul_(scale))
            if ctx.needs_input_grad[0]:
                wide = product_weight(weight, d_output)
                d_x = dy @ wide if d_x is None else d_x.addmm_(dy, wide)
        d_low = d_lows[0] if len(d_lows) == 1 else torch.cat(d_lows, dim=1)
        d_dropped: Gradient = None
        if ctx.shared and d_x is not None:
            d_x.addmm_(d_low, a)
        elif not ctx.shared and ctx.needs_input_grad[1]:
            d_dropped = (d_low @ a).to(given.dtype).view(ctx.shape)
        d_a = (d_low.t() @ low_rows.to(a.dtype)).to(ctx.dtype)
        d_as = d_a.split([b.shape[1] for b in bs])
        pairs = [gradient for pair in zip(d_as, d_bs, strict=True) for gradient in pair]
        return (None if d_x is None else d_x.to(given.dtype).view(ctx.shape)), d_dropped, None, *pairs


def split_by_layer(low: torch.Tensor, bs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Split x A^T (rows, ranks of all layers) into the part of each layer."""
    return low.split([b.shape[1] for b in bs], dim=1)


def cast_bias(bias: torch.Tensor | None, factor: torch.Tensor) -> torch.Tensor | None:
    return None if bias is None else bias.to(factor.dtype)
