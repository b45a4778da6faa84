"""Rebuild the trained model from models/base and the folder of an adapter: to merge, to evaluate, to resume.

An adapter's folder holds adapter_config.json and adapter_model.safetensors in peft's format, quantization.json, and
base.json with the hashes of the base's weights. After LoftQ it also holds initial.safetensors: the A0 and B0 with which
training began, under the same names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.load import load_frozen_model
from stages.common.model.lora import LoraLinear, attach_adapter
from stages.common.model.quantize import Quantization
from stages.common.model.weight_files import stored_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INITIAL_WEIGHTS = "initial.safetensors"
BASE_FILE = "base.json"  # sha256 of each weight file of the base
PEFT_PREFIX = "base_model.model."  # prepended by peft to the names of the base


def load_trained(base: Path, adapter: Path, attention: str = "auto") -> Any:
    """Load base and adapter, as they were at the end of training; return a peft model.

    Raises:
        UserError: a folder is missing or damaged, or the adapter does not fit the base.
    """
    quantization = Quantization.load(adapter)
    return attach_trained_adapter(load_frozen_model(base, quantization, attention), adapter)


def attach_trained_adapter(model: nn.Module, adapter: Path, trainable: bool = False) -> Any:
    """Put the adapter of a folder on a base from `load_frozen_model`.

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
    trained.initial = initial
    return trained


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the layers with an adapter, under their names in the base."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name.removeprefix(PEFT_PREFIX), module


class BaseWeights:
    """Weights of the linear layers of a model folder in full precision, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.stored = stored_tensors(folder)

    def __getitem__(self, layer: str) -> torch.Tensor:
        """Read the weight (out, in) of a layer in the file's dtype."""
        from safetensors import safe_open

        name = f"{layer}.weight"
        with safe_open(self.stored[name].file, framework="pt") as opened:
            return opened.get_tensor(name)
