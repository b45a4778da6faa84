"""The dense weight that a quantized layer multiplies by, in training, evaluation and merging alike."""

import json
import logging
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.model.products import product_dtype

# bitsandbytes, when first imported on a processor with AVX512-BF16, misses an optional package that asks a kernel hub
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


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


def product_weight(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`dense_weight` as a factor of a product with x: in the dtype that such products are made in."""
    return dense_weight(weight, product_dtype(x.dtype, x.device))


def is_quantized(weight: Any) -> bool:
    """Whether a parameter is one of bitsandbytes, of 4 or 8 bits."""
    return any(getattr(weight, name, None) is not None for name in ("quant_state", "SCB"))


QUANTIZATION_FILE = "quantization.json"


FOUR_BITS = ("nf4", "fp4")


SUBTRACTING = ("pissa", "olora")


@dataclass(frozen=True)
class Quantization:
    """How the base is held while the adapter is trained; kept beside the adapter, because merging must repeat it."""

    quantization: str  # nf4 | fp4 | int8 | none
    double_quantization: bool  # nf4, fp4: the scales are quantized too
    dtype: str  # bfloat16 | float32: of computation, and of weights that are not quantized
    initialisation: str = "default"  # of the adapter: pissa and olora have subtracted s B0 A0 from W before
    quant_storage: str = "uint8"  # nf4, fp4: dtype that holds the bits; under FSDP it is `dtype`

    @property
    def subtracts(self) -> bool:
        """Whether the base is Q(W - s B0 A0), A0 and B0 in the adapter's initial.safetensors; else it is Q(W)."""
        return self.initialisation in SUBTRACTING

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / QUANTIZATION_FILE).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Quantization":
        """Raises UserError where the adapter's folder lacks the file, or it holds something else."""
        path = folder / QUANTIZATION_FILE
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. `dvc repro train` makes it.") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: not what train writes ({error}). Run `dvc repro train`.") from None


def quantized_weight(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The parameter that `load_model` makes of a linear layer's weight (out, in): cast, then quantized.

    Block by block and row by row, nothing else of the model is needed: one weight at a time is as good as all.
    """
    cast = weight.to(getattr(torch, quantization.dtype)).contiguous()
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
    """The weight (out, in) that a layer of the loaded model computes with, unrounded: float32."""
    return dense_weight(quantized_weight(weight, quantization), torch.float32)


def compute_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
