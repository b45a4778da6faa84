"""Quantize weights, and dequantize them to what a layer multiplies by: the same in training, evaluation and merging."""

import json
import logging
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.products import product_dtype

# On a processor with AVX512-BF16, bitsandbytes warns at its import that an optional package for a kernel hub is missing
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

QUANTIZATION_FILE = "quantization.json"
FOUR_BITS = ("nf4", "fp4")
SUBTRACTING = ("pissa", "olora")  # initialisations under which the base is no longer Q(W); not supported


def dense_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight as (out, in) in `dtype`: dequantized if it has 4 or 8 bits, rounded once."""
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


def product_weight(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `dense_weight` in the dtype in which a product with x is computed."""
    return dense_weight(weight, product_dtype(x.dtype, x.device))


def is_quantized(weight: Any) -> bool:
    """Return whether a parameter is one of bitsandbytes' with 4 or 8 bits."""
    return any(getattr(weight, name, None) is not None for name in ("quant_state", "SCB"))


@dataclass(frozen=True)
class Quantization:
    """How the base is quantized while the adapter trains; saved with the adapter, because merging must repeat it."""

    # nf4 | fp4 | int8 | none
    quantization: str
    # nf4, fp4: the scales are quantized too
    double_quantization: bool
    # bfloat16 | float16 | float32: of computation, and of weights that are not quantized
    dtype: str
    # of the adapter: default | loftq
    initialisation: str = "default"
    # nf4, fp4: dtype that holds the bits; under FSDP it is `dtype`
    quant_storage: str = "uint8"

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / QUANTIZATION_FILE).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Quantization":
        """Read the file from an adapter's folder; raise UserError if it is missing, damaged, or of another base."""
        path = folder / QUANTIZATION_FILE
        try:
            found = cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. Run `dvc repro train`.") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}). Run `dvc repro -f -s train`.") from None
        if found.initialisation in SUBTRACTING:
            raise UserError(
                f"{path}: {found.initialisation} changed the base under the adapter, which is not supported. "
                "Run `dvc repro train`."
            )
        return found


def quantized_weight(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Return the parameter that `load_frozen_model` makes of a linear layer's weight (out, in): cast, then quantized.

    Quantization works by block and by row and needs nothing else of the model, so one weight at a time gives the same.
    """
    # bitsandbytes quantizes an int8 weight only on its way from the host to a device
    cast = weight.to("cpu", getattr(torch, quantization.dtype)).contiguous()
    kind = quantization.quantization
    if kind == "none":
        return nn.Parameter(cast.to(compute_device()), requires_grad=False)
    from bitsandbytes.nn import Int8Params, Params4bit

    if kind == "int8":
        return Int8Params(cast, requires_grad=False).to(compute_device())
    return Params4bit(
        cast,
        requires_grad=False,
        quant_type=kind,
        compress_statistics=quantization.double_quantization,
        quant_storage=getattr(torch, quantization.quant_storage),
    ).to(compute_device())


def round_trip(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Quantize and dequantize a weight (out, in): what the loaded layer multiplies by, unrounded, float32."""
    return dense_weight(quantized_weight(weight, quantization), torch.float32)


def compute_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
