"""The trained function, rebuilt from models/base and the folder of an adapter: for merging, evaluating, and going on.

An adapter's folder holds adapter_config.json and adapter_model.safetensors as peft reads them, quantization.json,
base.json, which names the weights that it belongs to, and after PiSSA, OLoRA and LoftQ initial.safetensors: A0 and B0 with which training began, under the same names. PiSSA and
OLoRA train over Q(W - s B0 A0), all others over Q(W).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.model.load import load_model
from stages.common.model.lora import LoraLinear, attach_adapter, residual_weight
from stages.common.model.quantize import Quantization, quantized_weight

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INITIAL_WEIGHTS = "initial.safetensors"
BASE_FILE = "base.json"  # sha256 of each weight file of the base
PEFT_PREFIX = "base_model.model."  # what peft puts before the names of the base


def load_trained(base: Path, adapter: Path) -> Any:
    """The model that training ended with (a peft model), from two folders.

    Raises:
        UserError: a folder is missing or cut, or the adapter does not fit the base.
    """
    quantization = Quantization.load(adapter)
    return attach_trained_adapter(load_model(base, quantization), base, adapter, quantization)


def attach_trained_adapter(
    model: nn.Module, base: Path, adapter: Path, quantization: Quantization, trainable: bool = False
) -> Any:
    """Put the adapter of a folder on the base that `load_model(base, quantization)` gave.

    Where the initialisation subtracted from the base, the same is subtracted again, a layer at a time.

    Args:
        adapter: a folder that training wrote; a checkpoint is one too.
        trainable: whether training goes on.

    Raises:
        UserError: the folder is missing or cut, or the adapter does not fit the model.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = LoraConfig.from_pretrained(str(adapter))
        config.inference_mode = not trainable
        config.base_model_name_or_path = None  # peft warns of every folder but this machine's
        trained = attach_adapter(model, config)
        initial = load_file(adapter / INITIAL_WEIGHTS) if (adapter / INITIAL_WEIGHTS).exists() else {}
        found = set_peft_model_state_dict(trained, load_file(adapter / ADAPTER_WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{adapter}: the adapter does not load ({error}). Run `dvc repro train`.") from error
    missing = [name for name in found.missing_keys if "lora_" in name] + list(found.unexpected_keys)
    if missing:
        raise UserError(
            f"{adapter}: the adapter does not fit the base: {missing[0]} ({len(missing)} tensors)"
        )
    if quantization.subtracts:
        subtract_initial(trained, BaseWeights(base), initial, quantization, adapter / INITIAL_WEIGHTS)
    trained.initial = initial
    return trained


def subtract_initial(
    trained: Any,
    weights: "BaseWeights",
    initial: dict[str, torch.Tensor],
    quantization: Quantization,
    path: Path,
) -> None:
    """Make the base of each layer with an adapter Q(W - s B0 A0); memory beyond the model is that of a layer."""
    for name, layer in lora_layers(trained):
        pair = [initial.get(f"{PEFT_PREFIX}{name}.lora_{x}.weight") for x in "AB"]
        if pair[0] is None or pair[1] is None:
            raise UserError(f"{path}: nothing for {name}. Run `dvc repro train`.")
        scale = layer.scaling[layer.active_adapters[0]]
        replace_base_weight(
            layer, residual_weight(weights[name], pair[0], pair[1], scale, quantization), quantization
        )
    trained.residual_base = True  # told in adapter_config.json


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Layers with an adapter, under the names that they have in the base."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name.removeprefix(PEFT_PREFIX), module


@torch.no_grad()
def replace_base_weight(layer: LoraLinear, weight: torch.Tensor, quantization: Quantization) -> None:
    """Give a layer another frozen weight (out, in), quantized into the memory that the old one has.

    New memory in its place would lie between that of the large tensors it is made from, which then cannot be reused:
    a SmolLM2-135M grew by its size in float32 [measured].
    """
    held = weight_tensors(layer.get_base_layer().weight)
    for old, new in zip(held, weight_tensors(quantized_weight(weight, quantization)), strict=True):
        old.copy_(new)


def weight_tensors(weight: Any) -> list[torch.Tensor]:
    """The tensors that a weight consists of: the bits, and the scales that are of this weight alone."""
    state = getattr(weight, "quant_state", None)
    nested = getattr(state, "state2", None)
    found = [weight.data, getattr(weight, "SCB", None)]
    found += [getattr(state, "absmax", None), getattr(state, "offset", None), getattr(nested, "absmax", None)]
    return [part for part in found if part is not None]


class BaseWeights:
    """Weights of the linear layers of a model folder in full precision, read one at a time."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), path)

    def __getitem__(self, layer: str) -> torch.Tensor:
        """Weight (out, in) of a layer in the dtype of the file; raises UserError where there is none."""
        from safetensors import safe_open

        name = f"{layer}.weight"
        if name not in self._files:
            raise UserError(f"{self.folder}: no tensor named {name}, which the adapter changes")
        with safe_open(self._files[name], framework="pt") as opened:
            return opened.get_tensor(name)
