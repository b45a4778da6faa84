"""Load a model folder as training uses it: quantized, with attention per document, frozen."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.core.errors import UserError
from stages.common.model.attention.interface import ATTENTION_NAME
from stages.common.model.checks import refuse_attention, try_model
from stages.common.model.coverage import LOADING_INFO, refuse_uncovered, require_config, silence_transformers
from stages.common.model.lora import replace_linear_forwards
from stages.common.model.packed_model import PackedModel
from stages.common.model.quantize import FOUR_BITS, Quantization, compute_device
from stages.common.model.trial import must_read_alone


def load_frozen_model(
    folder: Path, quantization: Quantization, attention: str = "auto", on_host: bool = False
) -> Any:
    """Load a model folder with attention per document, its linear layers except the head quantized.

    Args:
        attention: the implementation it will use, as in `PackedModel`.
        on_host: load into host memory, for a model that is moved to the GPU in parts.

    Raises:
        UserError: there is no model, it does not load, or its head or attention is not supported.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    silence_transformers()
    place = "cpu" if on_host else compute_device()
    require_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        refuse_attention(folder, config, attention, quantization.dtype)
        alone = must_read_alone(folder, attention, compute_device())
        options = load_options(quantization) | ({} if alone else {"attn_implementation": ATTENTION_NAME})
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": place}, **LOADING_INFO, **options
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the model does not load ({error}). Remove the folder and run the stage that writes it."
        ) from error
    refuse_uncovered(str(folder), info)
    model.reads_alone = alone
    disable_repacking(model)
    replace_linear_forwards(model)
    try_model(PackedModel(model, attention if place == compute_device() else "auto"), folder)
    return model.requires_grad_(False)


def load_options(quantization: Quantization) -> dict[str, Any]:
    """Return `from_pretrained`'s arguments for dtype and quantization."""
    from transformers import BitsAndBytesConfig

    kind, dtype = quantization.quantization, getattr(torch, quantization.dtype)
    config = None
    if kind in FOUR_BITS:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=quantization.double_quantization,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=quantization.quant_storage,
        )
    elif kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"dtype": dtype} | ({"quantization_config": config} if config else {})


def disable_repacking(model: nn.Module) -> None:
    """Keep 4-bit weights unchanged in `eval()`.

    With AVX512-BF16, bitsandbytes repacks them in place at the first evaluation, for a kernel that computes something
    slightly different: training would then continue with another function than before.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
