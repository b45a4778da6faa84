"""Read the adapter that train wrote: the update of each weight of the base, and its scale."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.model.trained import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_FILE,
    INITIAL_WEIGHTS,
    PEFT_PREFIX,
)

if TYPE_CHECKING:
    from peft import LoraConfig

LAYER_PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
# Options of peft that W + s B A cannot express, each with the value that leaves it off
PLAIN_LORA = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "fan_in_fan_out": False,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "velora_config": None,
}


@dataclass(frozen=True)
class LayerUpdate:
    """What training learned for one layer: s B A, and with DoRA a magnitude per row."""

    # (rank, in)
    a: torch.Tensor
    # (out, rank)
    b: torch.Tensor
    # s: alpha / rank, or alpha / sqrt(rank) with rsLoRA
    scale: float
    # (out,), DoRA
    magnitude: torch.Tensor | None = None
    # A0 and B0, if training did not start from a zero update
    initial: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (out, in) of the weight it belongs to."""
        return self.b.shape[0], self.a.shape[1]


def read_updates(folder: Path) -> dict[str, LayerUpdate]:
    """Return the updates in an adapter's folder, by the name of the weight in the base's files.

    Raises:
        UserError: a file is missing or cut, a tensor is missing or not finite, or the adapter holds something
            that cannot be merged.
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_plain_lora(folder, json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")))
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        initial = load_file(folder / INITIAL_WEIGHTS) if (folder / INITIAL_WEIGHTS).exists() else {}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter does not load ({error}). Run `dvc repro train`.") from error
    layers, first = (
        group_by_layer(folder / ADAPTER_WEIGHTS, tensors),
        group_by_layer(folder / INITIAL_WEIGHTS, initial),
    )
    unknown = sorted(set(first) - set(layers))
    if unknown:
        raise UserError(
            f"{folder / INITIAL_WEIGHTS}: {unknown[0]} is not in {ADAPTER_WEIGHTS}. Run "
            "`dvc repro -f -s train`."
        )
    return {
        f"{layer}.weight": layer_update(folder, layer, parts, first.get(layer), config)
        for layer, parts in sorted(layers.items())
    }


def check_base(folder: Path, files: Mapping[str, str]) -> None:
    """Raise UserError if the adapter records that it was trained on other weights than these.

    Args:
        files: sha256 of each weight file of the base; known once merging has read them.
    """
    if not (folder / BASE_FILE).exists():  # not written by this project's train
        return
    trained_on = read_json(folder / BASE_FILE)
    for name, digest in files.items():
        if trained_on.get(name) != digest:
            raise UserError(
                f"{folder}: it was trained on another base: the sha256 of models/base/{name} is not the one "
                f"in {BASE_FILE}. Run `dvc repro train`. Nothing was written."
            )


def require_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError if adapter_config.json uses an option that cannot be merged."""
    for key, plain in PLAIN_LORA.items():
        value = config.get(key, plain)
        if (value or None) != (plain or None):
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: {key} is {value!r}, which cannot be merged: merge only adds s B "
                "A to the weights of linear layers and applies DoRA's magnitudes. Train without it, or "
                "merge with peft."
            )


def group_by_layer(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Group tensors as layer -> part -> tensor.

    Raises:
        UserError: a tensor is not part of a LoRA layer, or is not finite.
    """
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part = next((part for part in LAYER_PARTS if name.endswith(f".{part}")), None)
        if part is None or not name.startswith(PEFT_PREFIX):
            raise UserError(
                f"{path}: {name} cannot be merged (only {', '.join(LAYER_PARTS)} can). Run "
                "`dvc repro -f -s train`."
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} has a value that is not finite. Run `dvc repro -f -s train`.")
        layers.setdefault(name.removeprefix(PEFT_PREFIX).removesuffix(f".{part}"), {})[part] = tensor
    return layers


def layer_update(
    folder: Path,
    layer: str,
    parts: Mapping[str, torch.Tensor],
    first: Mapping[str, torch.Tensor] | None,
    config: "LoraConfig",
) -> LayerUpdate:
    """Build one layer's update.

    Raises:
        UserError: a part is missing, or the parts do not fit each other.
    """
    a, b = (require_factor(folder / ADAPTER_WEIGHTS, layer, parts, name) for name in "AB")
    magnitude = parts.get("lora_magnitude_vector")
    if (magnitude is not None) != bool(config.use_dora):
        raise UserError(
            f"{folder}: use_dora is {config.use_dora}, but {layer} says otherwise. Run "
            "`dvc repro -f -s train`."
        )
    if b.shape[1] != len(a) or (magnitude is not None and magnitude.shape != (len(b),)):
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS}: the shapes of {layer}'s parts do not fit each other. Run "
            "`dvc repro -f -s train`."
        )
    initial = None
    if first is not None:
        initial = (
            require_factor(folder / INITIAL_WEIGHTS, layer, first, "A"),
            require_factor(folder / INITIAL_WEIGHTS, layer, first, "B"),
        )
        if [x.shape for x in initial] != [a.shape, b.shape]:
            raise UserError(
                f"{folder / INITIAL_WEIGHTS}: the shapes of {layer} differ from those in {ADAPTER_WEIGHTS}. "
                "Run `dvc repro -f -s train`."
            )
    return LayerUpdate(a, b, update_scale(layer, len(a), config), magnitude, initial)


def require_factor(path: Path, layer: str, parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a layer's A or B; raise UserError if it is missing."""
    factor = parts.get(f"lora_{name}.weight")
    if factor is None:
        raise UserError(f"{path}: {layer} has no lora_{name}.weight. Run `dvc repro -f -s train`.")
    return factor


def update_scale(layer: str, rank: int, config: "LoraConfig") -> float:
    """Return s of a layer as peft computes it; `alpha_pattern` overrides alpha for some layers."""
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), layer), config.lora_alpha)
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
