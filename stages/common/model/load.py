"""The base model as training sees it, quantized, and a model that takes packs and gives their loss."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.model.attention.interface import ATTENTION_NAME, register_attention
from stages.common.model.checks import refuse_attention, try_model
from stages.common.model.lora import replace_linear_forwards
from stages.common.model.packed_model import PackedModel
from stages.common.model.quantize import (
    FOUR_BITS,
    Quantization,
    compute_device,
)

UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def silence_transformers() -> None:
    """Leave transformers' bars and advice away; what it says of this project's settings is known."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_model(
    folder: Path, quantization: Quantization, attention: str = "auto", on_host: bool = False
) -> Any:
    """Load a model folder with attention per document; linear layers but the head in NF4 where asked.

    Args:
        attention: the implementation that it will be given, as `PackedModel` takes it.
        on_host: into the host's memory, not the GPU's, for a model that is moved there in parts.

    Raises:
        UserError: no model there, or one whose head or attention this project does not know.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    silence_transformers()
    register_attention()
    place = "cpu" if on_host else compute_device()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing). `dvc repro base` makes it.")
    try:
        config = AutoConfig.from_pretrained(folder)
        refuse_unknown_head(folder, config)
        refuse_attention(folder, config, attention, quantization.dtype)
        options = load_options(quantization)
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=ATTENTION_NAME, device_map={"": place}, **options
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: the model does not load: {error}") from error
    disable_repacking(model)
    replace_linear_forwards(model)
    try_model(PackedModel(model, attention if place == compute_device() else "auto"), folder)
    return model.requires_grad_(False)


def load_options(quantization: Quantization) -> dict[str, Any]:
    """What `from_pretrained` is told of dtype and quantization."""
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


def refuse_unknown_head(folder: Path, config: Any) -> None:
    for name in UNSUPPORTED_HEADS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise UserError(f"{folder}: config.json sets {name}, which the loss does not know yet")


def disable_repacking(model: nn.Module) -> None:
    """Keep 4-bit weights as they are in `eval()`.

    With AVX512-BF16 bitsandbytes repacks them in place at the first evaluation, for a kernel that computes
    something slightly different: training would go on with another function than before.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
