"""LoftQ (arXiv:2310.08659): A and B begin with the top of what quantization loses, the SVD of W - Q(W).

W is read in full precision from the base a layer at a time, so that memory beyond the quantized model is that of a
layer. The result is a function of base, settings and threads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.common.core.errors import UserError
from stages.common.model.lora import row_norms
from stages.common.model.quantize import Quantization, compute_device, round_trip
from stages.common.model.trained import PEFT_PREFIX, BaseWeights, lora_layers

if TYPE_CHECKING:
    from stages.train.settings import Lora


@torch.no_grad()
def initialise(adapted: Any, lora: "Lora", base: Path | None, quantization: Quantization | None) -> None:
    """Set A and B of a freshly adapted model as `lora.init` says.

    `adapted.initial` is then what initial.safetensors holds: empty where B began with zero.

    Raises:
        UserError: the rank is larger than a layer.
    """
    adapted.initial = {}
    if lora.init == "default":
        return
    if base is None or quantization is None:
        raise ValueError(f"{lora.init} needs the base in full precision, and how it was quantized")
    weights = BaseWeights(base)
    for name, layer in lora_layers(adapted):
        refuse_rank(name, layer.out_features, layer.in_features, lora)
        weight = weights[name].to(compute_device(), getattr(torch, quantization.dtype)).float()
        factors = top_of_svd(weight - round_trip(weight, quantization), lora)
        for letter, parts, factor in zip("AB", (layer.lora_A, layer.lora_B), factors, strict=True):
            # into the memory it has: new memory would fragment the space that the SVD needs
            parts["default"].weight.copy_(factor / layer.scaling["default"] ** 0.5)
            start = parts["default"].weight.detach().cpu().clone()
            adapted.initial[f"{PEFT_PREFIX}{name}.lora_{letter}.weight"] = start
        if lora.dora:  # magnitudes begin as the norms of the rows of what the layer is now
            a, b = layer.adapter
            norm = row_norms(layer.get_base_layer().weight, a, b, layer.scaling["default"])
            layer.lora_magnitude_vector["default"].weight.data = norm


def refuse_rank(name: str, outputs: int, inputs: int, lora: "Lora") -> None:
    """Raise UserError if a layer is too small for the rank of its initialisation."""
    if lora.init == "loftq" and lora.rank > min(outputs, inputs):
        raise UserError(
            f"train.lora.rank is {lora.rank}: {name} is {(outputs, inputs)}, and train.lora.init=loftq takes no more "
            "than its smaller side."
        )


def top_of_svd(matrix: torch.Tensor, lora: "Lora") -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) whose product is the nearest to the matrix (out, in) of that rank."""
    if lora.svd_niter:
        u, s, v = torch.svd_lowrank(matrix, lora.rank, niter=lora.svd_niter)
        vh = v.t()
    else:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[: lora.rank].sqrt()
    return root[:, None] * vh[: lora.rank], u[:, : lora.rank] * root
