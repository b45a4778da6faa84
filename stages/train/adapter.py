"""The LoRA adapter: made through peft from a seed, written so that the same weights are the same bytes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.lora_linear import with_adapter

if TYPE_CHECKING:
    from stages.train.settings import Lora

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "models/base"  # relative to the repository's root: no path of this machine


def add_adapter(model: nn.Module, lora: "Lora", seed: int) -> Any:
    """Put a freshly initialised adapter (float32) on every targeted linear layer.

    Raises:
        UserError: a name in `target_modules` fits no linear layer.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(model, lora.target_modules),
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    return with_adapter(model, config)


def target_modules(model: nn.Module, wanted: Any) -> Any:
    """`all-linear`, or the names after checking that each fits a linear layer."""
    if wanted == "all-linear":
        return wanted
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in wanted:
        if not any(known == name or known.endswith(f".{name}") for known in linear):
            valid = ", ".join(sorted({known.rpartition(".")[2] for known in linear}))
            raise UserError(
                f"train.lora.target_modules: no linear layer is named '{name}'. The model has {valid}."
            )
    return list(wanted)


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors as peft reads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(model)
    save_file(
        {k: v.contiguous().cpu() for k, v in sorted(tensors.items())}, folder / WEIGHTS, {"format": "pt"}
    )
    config = plain(model.peft_config["default"].to_dict())
    config |= {"base_model_name_or_path": BASE, "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def plain(value: Any) -> Any:
    """Sets as sorted lists, enumerations as their values: nothing whose order changes from run to run."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return getattr(value, "value", value)
