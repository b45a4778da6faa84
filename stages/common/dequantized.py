"""The dense weight that a quantized layer multiplies by, in training, evaluation and merging alike."""

from copy import copy
from typing import Any

import torch

from stages.common.products import product_dtype


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
    """`dense_weight` as a factor of a product with x: in the dtype that such products are made in."""
    return dense_weight(weight, product_dtype(x.dtype, x.device))


def is_quantized(weight: Any) -> bool:
    """Whether a parameter is one of bitsandbytes, of 4 or 8 bits."""
    return any(getattr(weight, name, None) is not None for name in ("quant_state", "SCB"))
