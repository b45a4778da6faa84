"""Weights of the merged model, and the folder that holds them.

Training computed `dequantize(Q(W)) x + s B A x`, so the merged weight is `dequantize(Q(W)) + s B A`: merging into the
16-bit W would be another function (peft #2321). All of it is in float32, rounded once at the end. Dequantizing to bfloat16
first, as training did for its products, would put W on the grid of the rounding: every update smaller than half a step
would be lost, instead of being right on average [measured: three times the KL to the unrounded sum].
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.files import sha256_file
from stages.common.lora_linear import LoraLinear, dense_weight, with_adapter
from stages.common.quantized import Quantization


def add_trained_adapter(model: nn.Module, adapter: Path) -> Any:
    """Put the adapter of a folder on a quantized base.

    Raises:
        UserError: the folder is missing or cut, or the adapter does not fit the model.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = LoraConfig.from_pretrained(str(adapter))
        trained = with_adapter(model, config)
        found = set_peft_model_state_dict(trained, load_file(adapter / "adapter_model.safetensors"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{adapter}: the adapter does not load ({error}). Run `dvc repro train`.") from error
    missing = [name for name in found.missing_keys if "lora_" in name] + list(found.unexpected_keys)
    if missing:
        raise UserError(
            f"{adapter}: the adapter does not fit the base: {missing[0]} ({len(missing)} tensors)"
        )
    return trained


def merged_weights(trained: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that differ from the base: of layers that were quantized, adapted, or both.

    Args:
        trained: the quantized base with the adapter on it (a peft model).

    Returns:
        Name in the base's weight files to float32 weight (out, in).
    """
    merged = {}
    for name, module in trained.named_modules():
        adapted = isinstance(module, LoraLinear)
        base = module.get_base_layer() if adapted else module
        if not adapted and (getattr(base, "quant_state", None) is None or name.endswith(".base_layer")):
            continue
        weight = dense_weight(base.weight, torch.float32)
        merged[f"{base_name(name)}.weight"] = weight + delta(module) if adapted else weight
    return merged


def delta(module: LoraLinear) -> torch.Tensor:
    """s B A of a layer, float32."""
    name = module.active_adapters[0]
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return (b.detach().float() @ a.detach().float()).mul_(module.scaling[name])


def base_name(name: str) -> str:
    """Name of a module before peft wrapped the model."""
    return name.removeprefix("base_model.model.")


def write_merged(folder: Path, base: Path, merged: dict[str, torch.Tensor]) -> int:
    """Write a copy of the model folder `base` with some weights replaced; all other tensors keep their bytes.

    Returns:
        How many tensors were kept.

    Raises:
        UserError: a merged weight has no place in the base's files, so nothing would carry it.
    """
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    used: set[str] = set()
    kept = 0
    for path in sorted(base.iterdir()):
        if path.suffix != ".safetensors":
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
            continue
        tensors = load_file(path)
        replaced = sorted(set(tensors) & set(merged))
        for name in replaced:
            tensors[name] = merged[name].to(tensors[name].dtype).contiguous()
        save_file(tensors, folder / path.name, {"format": "pt"})
        used.update(replaced)
        kept += len(tensors) - len(replaced)
    lost = sorted(set(merged) - used)
    if lost:
        raise UserError(f"{base}: no tensor named {lost[0]} ({len(lost)} missing), which the adapter changes")
    return kept


def manifest(base: Path, adapter: Path, quantization: Quantization, parts: dict[str, int]) -> dict[str, Any]:
    """What the merged model was made of: hashes of the weights, and how the base was quantized."""
    return {
        "base": {p.name: sha256_file(p) for p in sorted(base.glob("*.safetensors"))},
        "adapter": {p.name: sha256_file(p) for p in sorted(adapter.iterdir()) if p.is_file()},
        "quantization": vars(quantization),
        "tensors": parts,
    }
