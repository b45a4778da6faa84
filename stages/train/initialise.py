"""What A and B begin with, beyond peft's random A and zero B.

| `train.lora.init` | A0, B0 | base that is quantized |
|---|---|---|
| pissa | the top `rank` of the SVD of W, by peft | W - s B0 A0 |
| olora | the top `rank` of the QR decomposition of W, by peft | W - s B0 A0 |
| loftq | the top `rank` of the SVD of what quantization loses, W - Q(W) | W |
| eva | A: right singular vectors of the layer's inputs, by peft; B: 0 | W |

The decompositions are of W in full precision, read from the base a layer at a time, so that memory beyond the quantized
model is that of a layer. All of it is a function of base, settings, seed and threads.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.lora import LoraLinear, row_norms
from stages.common.model.loss import labelled_targets
from stages.common.model.packed_model import PackedModel
from stages.common.model.packs import Packs, flatten_packs
from stages.common.model.quantize import SUBTRACTING, Quantization, compute_device, round_trip
from stages.common.model.trained import PEFT_PREFIX, BaseWeights, lora_layers, subtract_initial
from stages.train.schedule import limit_tokens

if TYPE_CHECKING:
    from stages.train.settings import Lora

EVA_PASSES = 25  # over the rows, in which the singular vectors must have settled


def initialise(
    adapted: Any,
    lora: "Lora",
    base: Path | None,
    quantization: Quantization | None,
    rows: Sequence[dict[str, Any]],
) -> None:
    """Set A and B of a freshly adapted model as `lora.init` says, and its base where that changes.

    `adapted.initial` is then what initial.safetensors holds: empty where B began with zero.

    Raises:
        UserError: the rank is larger than a layer, or eva has too few tokens.
    """
    adapted.initial = {}
    if lora.init == "eva":
        eva(adapted, lora, rows)
    if lora.init in ("pissa", "olora", "loftq"):
        if base is None or quantization is None:
            raise ValueError(f"{lora.init} needs the base in full precision, and how it was quantized")
        weights = BaseWeights(base)
        for name, layer in lora_layers(adapted):
            decompose(layer, name, weights[name], lora, quantization)
            for letter, parts in (("A", layer.lora_A), ("B", layer.lora_B)):
                start = parts["default"].weight.detach().cpu().clone()
                adapted.initial[f"{PEFT_PREFIX}{name}.lora_{letter}.weight"] = start
        if lora.init in SUBTRACTING:
            subtract_initial(adapted, weights, adapted.initial, quantization, base)
    if lora.dora and lora.init != "default":
        restart_magnitudes(adapted)


@torch.no_grad()
def decompose(layer: Any, name: str, weight: torch.Tensor, lora: "Lora", quantization: Quantization) -> None:
    """Set A and B of one layer from its weight (out, in)."""
    if lora.rank > min(weight.shape):
        raise UserError(
            f"train.lora.rank is {lora.rank}: {name} is {tuple(weight.shape)}, and train.lora.init={lora.init} "
            f"takes no more than its smaller side"
        )
    weight = weight.to(compute_device(), getattr(torch, quantization.dtype)).float()
    pair = [parts["default"].weight for parts in (layer.lora_A, layer.lora_B)]
    held = [parameter.data for parameter in pair]
    if lora.init == "loftq":
        factors = top_of_svd(weight - round_trip(weight, quantization), lora)
        for parameter, factor in zip(pair, factors, strict=True):
            parameter.data = factor / layer.scaling["default"] ** 0.5
    else:
        with full_precision(layer, weight):
            if lora.init == "olora":
                layer.olora_init("default")
            else:
                layer.pissa_init("default", f"pissa_niter_{lora.svd_niter}" if lora.svd_niter else "pissa")
    for parameter, memory in zip(pair, held, strict=True):  # as in replace_base_weight
        parameter.data = memory.copy_(parameter.data)


@contextmanager
def full_precision(layer: LoraLinear, weight: torch.Tensor) -> Iterator[None]:
    """While the block runs a layer's base is this weight: peft's initialisations read it, and change it."""
    stand_in = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    stand_in.weight = nn.Parameter(weight, requires_grad=False)
    kept, layer.base_layer = layer.base_layer, stand_in
    try:
        yield
    finally:
        layer.base_layer = kept


def top_of_svd(matrix: torch.Tensor, lora: "Lora") -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) whose product is the nearest to the matrix (out, in) of that rank."""
    if lora.svd_niter:
        u, s, v = torch.svd_lowrank(matrix, lora.rank, niter=lora.svd_niter)
        vh = v.t()
    else:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[: lora.rank].sqrt()
    return root[:, None] * vh[: lora.rank], u[:, : lora.rank] * root


def restart_magnitudes(adapted: nn.Module) -> None:
    """DoRA's magnitudes begin as the norms of the rows of what the layer is now."""
    for _, layer in lora_layers(adapted):
        a, b = (parts["default"].weight for parts in (layer.lora_A, layer.lora_B))
        with torch.no_grad():
            norm = row_norms(layer.get_base_layer().weight, a, b, layer.scaling["default"])
        layer.lora_magnitude_vector["default"].weight.data = norm


def eva(adapted: Any, lora: "Lora", rows: Sequence[dict[str, Any]]) -> None:
    """peft's EVA over labelled tokens of these rows, as often as it takes for the vectors to settle.

    Raises:
        UserError: no row has enough labelled tokens, a layer is too narrow, or the vectors do not settle.
    """
    from peft import initialize_lora_eva_weights

    vectors = 2 * round(lora.rank * lora.eva_rho)  # that peft's SVD looks for, of which it takes half
    narrowest = min(layer.in_features for _, layer in lora_layers(adapted))
    enough = [row for row in rows if len(labelled_targets(row["labels"])[1]) >= vectors]
    if vectors > narrowest or not enough:
        raise UserError(
            f"train.lora.init=eva with train.lora.rank={lora.rank} looks for {vectors} singular vectors, and "
            + (
                f"a layer has {narrowest} inputs."
                if vectors > narrowest
                else "no micro batch has as many labels."
            )
            + " Lower train.lora.rank or train.lora.eva_rho, or raise train.micro_batch."
        )
    passes = 0

    def forward(model: Any, row: dict[str, Any]) -> None:
        nonlocal passes
        passes += 1
        if passes > EVA_PASSES * len(enough):
            raise UserError(
                f"train.lora.init=eva: the singular vectors of the inputs did not settle in {EVA_PASSES} passes over "
                f"{len(enough)} rows. Raise train.lora.eva_tokens (now {lora.eva_tokens}), or lower train.lora.rank."
            )
        PackedModel(model).hidden(row["input_ids"], row["position_ids"], row["lengths"])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says of each length that it cannot be moved to a device
        initialize_lora_eva_weights(
            adapted, enough, forward_fn=forward, gather_distributed_inputs=False, show_progress_bar=False
        )


def eva_rows(packs: Packs, order: Sequence[int], lora: "Lora", size: int) -> list[dict[str, Any]]:
    """The first packs in training order, up to `lora.eva_tokens` tokens, `size` packs a row; none but for eva."""
    if lora.init != "eva":
        return []
    kept = limit_tokens(order[: len(packs)], packs.tokens, lora.eva_tokens)
    return [flatten_packs([packs[i] for i in kept[at : at + size]]) for at in range(0, len(kept), size)]
