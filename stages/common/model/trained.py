"""Rebuild the trained model from models/base and the folder of an adapter: to merge, to evaluate, to resume.

An adapter's folder holds adapter_config.json and adapter_model.safetensors in peft's format, quantization.json, and
base.json with the hashes of the base's weights. After PiSSA, OLoRA and LoftQ it also holds initial.safetensors: the A0
and B0 with which training began, under the same names. PiSSA and OLoRA train over Q(W - s B0 A0), all others over Q(W).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.load import load_frozen_model
from stages.common.model.lora import LoraLinear, attach_adapter, residual_weight
from stages.common.model.quantize import Quantization, quantized_weight

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INITIAL_WEIGHTS = "initial.safetensors"
BASE_FILE = "base.json"  # sha256 of each weight file of the base
PEFT_PREFIX = "base_model.model."  # prepended by peft to the names of the base


def load_trained(base: Path, adapter: Path) -> Any:
    """Load base and adapter, as they were at the end of training; return a peft model.

    Raises:
        UserError: a folder is missing or damaged, or the adapter does not fit the base.
    """
    quantization = Quantization.load(adapter)
    return attach_trained_adapter(load_frozen_model(base, quantization), base, adapter, quantization)


def attach_trained_adapter(
    model: nn.Module, base: Path, adapter: Path, quantization: Quantization, trainable: bool = False
) -> Any:
    """Put the adapter of a folder on a base from `load_frozen_model(base, quantization)`.

    Where the initialisation subtracted from the base, the same is subtracted again, a layer at a time.

    Args:
        adapter: a folder that training wrote; may be a checkpoint.
        trainable: whether training continues.

    Raises:
        UserError: the folder is missing or damaged, or the adapter does not fit the model.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = LoraConfig.from_pretrained(str(adapter))
        config.inference_mode = not trainable
        config.base_model_name_or_path = None  # peft warns of a base that is not on this machine
        trained = attach_adapter(model, config)
        initial = load_file(adapter / INITIAL_WEIGHTS) if (adapter / INITIAL_WEIGHTS).exists() else {}
        found = set_peft_model_state_dict(trained, load_file(adapter / ADAPTER_WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{adapter}: the adapter does not load ({error}). Run `dvc repro train`.") from error
    misfits = [name for name in found.missing_keys if "lora_" in name] + list(found.unexpected_keys)
    if misfits:
        raise UserError(
            f"{adapter}: the adapter does not fit the base: {len(misfits)} tensors are missing or unknown, such as "
            f"{misfits[0]}. Run `dvc repro train`."
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
    """Replace the base of each layer with an adapter by Q(W - s B0 A0), using extra memory for one layer only."""
    for name, layer in lora_layers(trained):
        pair = [initial.get(f"{PEFT_PREFIX}{name}.lora_{x}.weight") for x in "AB"]
        if pair[0] is None or pair[1] is None:
            raise UserError(f"{path}: A0 or B0 of {name} is missing. Run `dvc repro train`.")
        scale = layer.scaling[layer.active_adapters[0]]
        replace_base_weight(
            layer, residual_weight(weights[name], pair[0], pair[1], scale, quantization), quantization
        )
    trained.residual_base = True  # save_adapter notes it in adapter_config.json


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the layers with an adapter, under their names in the base."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name.removeprefix(PEFT_PREFIX), module


@torch.no_grad()
def replace_base_weight(layer: LoraLinear, weight: torch.Tensor, quantization: Quantization) -> None:
    """Quantize another frozen weight (out, in) into the memory of a layer's old one.

    New memory would fragment the space of the large tensors it is made from, which then cannot be reused: a
    SmolLM2-135M grew by its size in float32 [measured].
    """
    old_tensors = weight_tensors(layer.get_base_layer().weight)
    new_tensors = weight_tensors(quantized_weight(weight, quantization))
    for old, new in zip(old_tensors, new_tensors, strict=True):
        old.copy_(new)


def weight_tensors(weight: Any) -> list[torch.Tensor]:
    """Return the tensors that a weight consists of: its bits, and the scales that belong to this weight alone."""
    state = getattr(weight, "quant_state", None)
    nested = getattr(state, "state2", None)
    tensors = [weight.data, getattr(weight, "SCB", None)]
    tensors += [
        getattr(state, "absmax", None),
        getattr(state, "offset", None),
        getattr(nested, "absmax", None),
    ]
    return [tensor for tensor in tensors if tensor is not None]


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
        """Read the weight (out, in) of a layer in the file's dtype; raise UserError if there is none."""
        from safetensors import safe_open

        name = f"{layer}.weight"
        if name not in self._files:
            raise UserError(
                f"{self.folder}: no tensor named {name}, which the adapter changes. Run `dvc repro train`."
            )
        with safe_open(self._files[name], framework="pt") as opened:
            return opened.get_tensor(name)
