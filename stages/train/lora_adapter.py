"""Make the LoRA adapter through peft from a seed, and write it so that equal weights give equal bytes."""

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.lora import attach_adapter
from stages.common.model.quantize import Quantization
from stages.common.model.trained import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INITIAL_WEIGHTS
from stages.train.initialise import initialise

if TYPE_CHECKING:
    from stages.train.settings import Lora, TrainSettings

# For adapter_config.json. With "./" it cannot be taken for a repository of the hub; the same on every machine
BASE_NAME = "./models/base"


# Their fused kernels read the weight of out_proj themselves, so peft refuses an adapter there
FUSED_OUT_PROJ = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")


def add_adapter(
    model: nn.Module,
    lora: "Lora",
    seed: int,
    base: Path | None = None,
    quantization: Quantization | None = None,
) -> Any:
    """Put a freshly initialised adapter (float32) on every targeted linear layer.

    Args:
        model: from `load_frozen_model(base, quantization)`.
        base, quantization: the full-precision weights and how they were quantized; loftq needs them.

    Raises:
        UserError: a name in `target_modules` matches no linear layer, or the initialisation is impossible.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=resolve_target_modules(model, lora.target_modules),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        adapted = attach_adapter(model, config)
    except ValueError as error:
        raise UserError(f"train.lora.target_modules: {error}") from error
    initialise(adapted, lora, base, quantization)
    return adapted


def resolve_target_modules(model: Any, target_modules: Any) -> Any:
    """Return `train.lora.target_modules` as peft takes it, after checking that it fits linear layers only.

    The head cannot be adapted: the loss multiplies by its weight alone.

    Raises:
        UserError: a name or the pattern matches no linear layer; names the nearest ones.
    """
    if target_modules == "all-linear":
        return all_linear_layers(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    if isinstance(target_modules, str):
        check_pattern(model, target_modules, linear)
        return target_modules
    short_names = sorted({layer.rpartition(".")[2] for layer in linear})
    for name in target_modules:
        if not any(layer == name or layer.endswith(f".{name}") for layer in linear):
            close = difflib.get_close_matches(name, [*short_names, *linear], n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise UserError(
                f"train.lora.target_modules: no linear layer is named '{name}'.{hint} "
                f"The model has {', '.join(short_names) or 'none'}."
            )
    return list(target_modules)


def all_linear_layers(model: Any) -> list[str]:
    """Return the names of the text model's linear layers without the head: what "all-linear" means here.

    peft would also take those of a vision tower and subclasses with a forward of their own, such as a router, and
    would rewrite the experts of some models to `target_parameters`, which cannot be merged.

    Raises:
        UserError: there are none, or experts hold weights that no linear layer has: they would be neither quantized
            nor trained.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    text = model.get_decoder() if hasattr(model, "get_decoder") else model
    prefix = next((f"{name}." for name, module in model.named_modules() if module is text and name), "")
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = [
        prefix + name
        for name, module in text.named_modules()
        if type(module) in (nn.Linear, Linear4bit, Linear8bitLt)
        and module is not head
        and not (name.endswith("out_proj") and model.config.model_type in FUSED_OUT_PROJ)
    ]
    if not names:
        raise UserError(
            "train.lora.target_modules=all-linear: the text model has no plain linear layer. Name its layers in "
            "train.lora.target_modules, or choose another base."
        )
    # a convolution's weights have three dimensions too, and are few
    experts = {
        f"{owner}.{name}": p
        for owner, module in text.named_modules()
        if not isinstance(module, nn.Conv1d)
        for name, p in module.named_parameters(recurse=False)
        if p.ndim == 3 and p.shape[0] > 1
    }
    if experts:
        # a weight of 4 bits has two in a byte, so shapes of quantized layers are those of the modules
        linear = sum(
            m.in_features * m.out_features
            for m in text.modules()
            if isinstance(m, nn.Linear) and m is not head
        )
        held = sum(p.numel() for p in experts.values())
        raise UserError(
            f"train.lora.target_modules=all-linear: {held / (held + linear):.1%} of the weights in layers are experts "
            f"(such as {next(iter(experts))}), which this project neither quantizes nor adapts. Choose a dense base; "
            "or, to train the other layers alone, with experts in 16 bits, name them in train.lora.target_modules."
        )
    return names


def check_pattern(model: nn.Module, pattern: str, linear: list[str]) -> None:
    """Check that a pattern matches the whole name of at least one linear layer, and of nothing else."""
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    other = [name for name in matched if name not in linear]
    example = f"Names look like '{linear[0]}', '{linear[-1]}'; a pattern must match the whole name."
    if not matched:
        close = difflib.get_close_matches(pattern, linear, n=1)
        hint = f" The nearest is '{close[0]}'." if close else ""
        raise UserError(
            f"train.lora.target_modules: no linear layer matches '{pattern}'.{hint} {example} "
            "Give plain names as a list."
        )
    if other:
        raise UserError(
            f"train.lora.target_modules: '{pattern}' also matches '{other[0]}', which is not a linear layer that "
            f"can be adapted. {example}"
        )


def parameter_groups(model: nn.Module, settings: "TrainSettings") -> list[dict[str, Any]]:
    """Group the trainable parameters by `lr` and `weight_decay`, as every torch optimizer takes them.

    With `loraplus_lr_ratio` above 1, B learns that many times as fast as A (LoRA+, arXiv:2402.12354), and so do DoRA's
    magnitudes, as in peft's `create_loraplus_optimizer`. Magnitudes are not decayed: they do not start at zero.
    """
    ratio, rate = settings.lora.loraplus_lr_ratio, settings.learning_rate
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        magnitude = parameter.ndim == 1
        faster = ratio > 1 and (magnitude or "lora_B" in name)
        group = {
            "params": [],
            "lr": rate * ratio if faster else rate,
            "weight_decay": 0.0 if magnitude else settings.weight_decay,
        }
        groups.setdefault("magnitude" if magnitude else "B" if faster else "A", group)["params"].append(
            parameter
        )
    return list(groups.values())


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors in peft's format, and initial.safetensors where needed.

    The configuration does not name LoftQ: peft would repeat it on whatever base it is given.
    """
    from peft import get_peft_model_state_dict

    write_tensors(get_peft_model_state_dict(model), folder / ADAPTER_WEIGHTS)
    initial = getattr(model, "initial", {})
    if initial:
        write_tensors(initial, folder / INITIAL_WEIGHTS)
    config = to_json_value(model.peft_config["default"].to_dict())
    config |= {"base_model_name_or_path": BASE_NAME, "inference_mode": True}
    if not isinstance(config["target_modules"], str):
        config["target_modules"] = sorted(config["target_modules"])  # a set where peft read it from a file
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.contiguous().cpu() for k, v in sorted(tensors.items())}, path, {"format": "pt"})


def to_json_value(value: Any) -> Any:
    """Convert sets to sorted lists and enumerations to their values, so that no order changes from run to run."""
    if isinstance(value, dict):
        return {str(k): to_json_value(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [to_json_value(v) for v in value]
    return getattr(value, "value", value)
