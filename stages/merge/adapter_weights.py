"""The adapter as train wrote it: which weight of the base each update belongs to, and at which scale."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.model.trained import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_FILE,
    INITIAL_WEIGHTS,
    PEFT_PREFIX,
)

if TYPE_CHECKING:
    from peft import LoraConfig

PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
# What else peft can do to a layer, or train beside it: nothing that W + s B A holds
PLAIN = {
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
class Update:
    """What training learned for one layer: s B A, and with DoRA a length for each row."""

    a: torch.Tensor  # (rank, in)
    b: torch.Tensor  # (out, rank)
    scale: float  # s: alpha / rank, or alpha / sqrt(rank) with rsLoRA
    magnitude: torch.Tensor | None = None  # (out,), DoRA
    initial: tuple[torch.Tensor, torch.Tensor] | None = None  # A0, B0 where they were not a zero update

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that it belongs to."""
        return self.b.shape[0], self.a.shape[1]


def read_updates(folder: Path) -> dict[str, Update]:
    """The updates of an adapter's folder by the name of the weight in the base's files.

    Raises:
        UserError: a file is missing or cut, a tensor is missing or not finite, or the adapter holds something that
            cannot be merged.
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        refuse_more_than_lora(folder, json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")))
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        initial = load_file(folder / INITIAL_WEIGHTS) if (folder / INITIAL_WEIGHTS).exists() else {}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter does not load ({error}). Run `dvc repro train`.") from error
    layers, first = by_layer(folder / ADAPTER_WEIGHTS, tensors), by_layer(folder / INITIAL_WEIGHTS, initial)
    strange = sorted(set(first) - set(layers))
    if strange:
        raise UserError(
            f"{folder / INITIAL_WEIGHTS}: {strange[0]} is not in {ADAPTER_WEIGHTS}. Run `dvc repro -f -s train`."
        )
    return {
        f"{layer}.weight": update(folder, layer, parts, first.get(layer), config)
        for layer, parts in sorted(layers.items())
    }


def check_base(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse an adapter that was trained on other weights than these, where it tells on which.

    Args:
        files: sha256 of each weight file of the base; known after they were read once, for the merge.

    Raises:
        UserError: a file is another one.
    """
    if not (folder / BASE_FILE).exists():  # not of this project's train
        return
    trained_on = read_json(folder / BASE_FILE)
    for name, digest in files.items():
        if trained_on.get(name) != digest:
            raise UserError(
                f"{folder}: it was trained on another base: models/base/{name} has not the sha256 that {BASE_FILE} "
                f"names. Run `dvc repro train`. Nothing was written."
            )


def refuse_more_than_lora(folder: Path, config: Mapping[str, Any]) -> None:
    for key, plain in PLAIN.items():
        found = config.get(key, plain)
        if (found or None) != (plain or None):
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: {key} is {found!r}, which cannot be merged: merge adds s B A to "
                f"weights of linear layers, and DoRA's magnitudes. Train without it, or merge with peft itself."
            )


def by_layer(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors as layer -> part -> tensor."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part = next((part for part in PARTS if name.endswith(f".{part}")), None)
        if part is None or not name.startswith(PEFT_PREFIX):
            raise UserError(f"{path}: {name} is nothing that can be merged (known are {', '.join(PARTS)})")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds a value that is not finite. Run `dvc repro -f -s train`.")
        layers.setdefault(name.removeprefix(PEFT_PREFIX).removesuffix(f".{part}"), {})[part] = tensor
    return layers


def update(
    folder: Path,
    layer: str,
    parts: Mapping[str, torch.Tensor],
    first: Mapping[str, torch.Tensor] | None,
    config: "LoraConfig",
) -> Update:
    """One layer's update, its parts checked against each other."""
    a, b = (factor(folder / ADAPTER_WEIGHTS, layer, parts, name) for name in "AB")
    magnitude = parts.get("lora_magnitude_vector")
    if (magnitude is not None) != bool(config.use_dora):
        raise UserError(f"{folder}: use_dora is {config.use_dora}, and {layer} does not agree with it")
    if b.shape[1] != len(a) or (magnitude is not None and magnitude.shape != (len(b),)):
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: shapes of the parts of {layer} do not fit each other")
    initial = None
    if first is not None:
        initial = (
            factor(folder / INITIAL_WEIGHTS, layer, first, "A"),
            factor(folder / INITIAL_WEIGHTS, layer, first, "B"),
        )
        if [x.shape for x in initial] != [a.shape, b.shape]:
            raise UserError(
                f"{folder / INITIAL_WEIGHTS}: {layer} has not the shapes that it has in {ADAPTER_WEIGHTS}"
            )
    return Update(a, b, scale(layer, len(a), config), magnitude, initial)


def factor(path: Path, layer: str, parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    found = parts.get(f"lora_{name}.weight")
    if found is None:
        raise UserError(f"{path}: {layer} has no lora_{name}.weight. Run `dvc repro -f -s train`.")
    return found


def scale(layer: str, rank: int, config: "LoraConfig") -> float:
    """s of a layer, as peft computes it: `alpha_pattern` names layers whose alpha is another one."""
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), layer), config.lora_alpha)
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
