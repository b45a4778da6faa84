"""Memory of a training, part by part, from shapes alone: what a QLoRA step holds at its peak.

The peak is where the forward pass of the largest micro batch ends: weights, adapter, gradients and optimizer state are there,
every layer's activations are kept, and the first gradients are made. `python -m benchmarks.plan` holds the sum to measured
peaks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.common.model.attention.dense import BLOCK_TOKENS
from stages.common.model.attention.interface import DENSE_TOKENS
from stages.common.model.loss import CHUNK_TOKENS
from stages.common.model.shapes import linear_shapes, text_config

MIB = 2**20
BYTES = {"bfloat16": 2, "float32": 4}
BITS = {"nf4": 4, "fp4": 4, "int8": 8}  # of a quantized weight, scales left out
BLOCK, SUPERBLOCK = 64, 256  # weights that share a scale in 4 bits; scales that share one of theirs
# Bytes of optimizer state a trained value takes. 8 bits: a byte for each moment; Adafactor: two vectors a matrix, about nothing.
STATE = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0, "lion": 4, "muon": 4}
# What Python and the libraries hold once a model is loaded, its weights left out; and what the C library's heap loses between
# blocks of changing sizes within a dozen steps, as a share of the activations. Both fitted to `python -m benchmarks.plan
# memory`. A CUDA context with cuBLAS's workspace is a common figure, not run here.
LIBRARIES, HEAP, CONTEXT = 800 * MIB, 0.4, 600 * MIB
MAPPED = "base's file, mapped"  # resident while RAM is free; the kernel takes it back where it is not
MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True)
class Batch:
    """The micro batch that takes the most memory."""

    tokens: int
    pairs: int  # query and key pairs that attention computes, see `attention_pairs`
    longest: int  # tokens of its longest document
    labelled: int


def attention_pairs(lengths: Any) -> Any:
    """Probabilities a head keeps for documents of these lengths, each: causal, by blocks of queries."""
    return lengths * (lengths + np.minimum(lengths, BLOCK_TOKENS)) // 2


def adapted_layers(config: Mapping[str, Any], target: Any) -> list[str]:
    """The linear layer's name for each layer of the model that `train.lora.target_modules` fits, as peft matches them."""
    found = []
    for layer in range(text_config(config)["num_hidden_layers"]):
        for parent, names in MODULES.items():
            for name in names:
                whole = f"model.layers.{layer}.{parent}.{name}"
                if isinstance(target, str):
                    fits = target == "all-linear" or re.fullmatch(target, whole) is not None
                else:
                    fits = any(whole == one or whole.endswith(f".{one}") for one in target)
                if fits:
                    found.append(name)
    return found


def adapter_parameters(config: Mapping[str, Any], lora: Any) -> int:
    """Trained values: A and B of each adapted layer, and DoRA's magnitudes."""
    shapes = linear_shapes(config)
    dora = getattr(lora, "dora", False)
    return sum(
        lora.rank * sum(shapes[name]) + (shapes[name][1] if dora else 0)
        for name in adapted_layers(config, lora.target_modules)
    )


def linear_parameters(config: Mapping[str, Any]) -> int:
    """Weights of the layers that are quantized: every linear layer but the head."""
    return text_config(config)["num_hidden_layers"] * sum(a * b for a, b in linear_shapes(config).values())


def other_parameters(config: Mapping[str, Any]) -> int:
    """Embeddings, the head where it is one of its own, norms, biases."""
    text = text_config(config)
    hidden, layers, shapes = text["hidden_size"], text["num_hidden_layers"], linear_shapes(config)
    heads = 1 if text.get("tie_word_embeddings") else 2
    qkv = text.get("attention_bias") or text.get("model_type") == "qwen2"
    biased = [name for name in ("q_proj", "k_proj", "v_proj") if qkv]
    biased += ["o_proj"] if text.get("attention_bias") else []
    biased += list(MODULES["mlp"]) if text.get("mlp_bias") else []
    norms = (2 * layers + 1) * hidden
    if str(text.get("model_type", "")).startswith("qwen3"):
        norms += 2 * layers * text["head_dim"]
    return heads * hidden * text["vocab_size"] + norms + layers * sum(shapes[name][1] for name in biased)


def weight_bytes(config: Mapping[str, Any], quantization: str, double: bool, dtype: str) -> int:
    """The frozen base as training holds it."""
    linear, other = linear_parameters(config), other_parameters(config) * BYTES[dtype]
    if quantization == "none":
        return linear * BYTES[dtype] + other
    if quantization == "int8":  # a float32 scale for each output
        rows = sum(b for _, b in linear_shapes(config).values())
        return linear + 4 * text_config(config)["num_hidden_layers"] * rows + other
    scales = linear // BLOCK
    bytes_of_scales = scales + 4 * scales // SUPERBLOCK if double else 4 * scales
    return linear * BITS[quantization] // 8 + bytes_of_scales + other


def layer_activations(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> int:
    """Bytes that one decoder layer keeps for its backward pass.

    A token: what goes into each norm and each linear layer, queries, keys and values, the activation function's input and the
    two factors of the gate, A x of each adapter; with dropout, each adapter's own input and mask. Attention: probabilities
    where it is `dense`, else its output's normalizers.
    """
    text, shapes = text_config(config), linear_shapes(config)
    wide, hidden, inner = BYTES[train.dtype], text["hidden_size"], text["intermediate_size"]
    queries, keys = shapes["q_proj"][1], shapes["k_proj"][1]
    kept = 2 * hidden + queries + 2 * keys + 3 * inner  # into norms; q, k, v; gate, its activation, up
    kept += len(shapes) * train.lora.rank
    if train.lora.dropout:
        mask = 1 / wide if cuda else 1
        kept += sum(a * (1 + mask) for a, _ in shapes.values())
    else:
        kept += 2 * hidden + queries + inner  # into q, k, v; into gate and up; into o; into down
    a_token = kept * wide + 2 * 4  # and what a norm divides by
    heads = text["num_attention_heads"]
    if is_dense(train, batch, cuda):
        attention = heads * batch.pairs * wide
    else:
        attention = batch.tokens * (4 * heads + (queries * wide if train.lora.dropout else 0))
    return int(batch.tokens * a_token + attention)


def is_dense(train: Any, batch: Batch, cuda: bool) -> bool:
    """Whether attention keeps its probabilities (stages/common/model/attention/interface.py)."""
    wanted = train.attention
    return wanted == "dense" or (wanted == "auto" and not cuda and batch.longest <= DENSE_TOKENS)


def activations(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> int:
    """Bytes kept at the end of the forward pass: every layer's, or with checkpointing each layer's input and one layer's."""
    layers, layer = text_config(config)["num_hidden_layers"], layer_activations(config, train, batch, cuda)
    if not train.gradient_checkpointing:
        return layers * layer
    return layers * batch.tokens * text_config(config)["hidden_size"] * BYTES[train.dtype] + layer


def loss_bytes(config: Mapping[str, Any], train: Any, batch: Batch) -> int:
    """Logits of a chunk, their logarithms in float32, which become the gradient, and that in the computation's type."""
    rows = min(CHUNK_TOKENS, batch.labelled)
    text, wide = text_config(config), BYTES[train.dtype]
    return rows * text["vocab_size"] * 8 + 2 * batch.labelled * text["hidden_size"] * wide


def widened_bytes(config: Mapping[str, Any], train: Any, cuda: bool) -> int:
    """The head in float32 and the largest weight, where this processor multiplies bfloat16 that way; else 0."""
    from stages.common.model.products import multiplies_bfloat16

    if cuda or train.dtype != "bfloat16" or multiplies_bfloat16():
        return 0
    text, largest = text_config(config), max(a * b for a, b in linear_shapes(config).values())
    return 4 * (text["hidden_size"] * text["vocab_size"] + largest)


def working_bytes(config: Mapping[str, Any], train: Any, batch: Batch) -> int:
    """One layer's gradients while they are made, and the largest weight dequantized."""
    text, wide = text_config(config), BYTES[train.dtype]
    largest = max(a * b for a, b in linear_shapes(config).values()) * wide
    return batch.tokens * (3 * text["intermediate_size"] + 2 * text["hidden_size"]) * wide + largest


def memory_parts(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> dict[str, int]:
    """Bytes of each part at the peak of a training step, by name.

    Args:
        config: config.json of the base.
        train: the section `train`.
        batch: the largest micro batch.
        cuda: whether the parts are in a GPU's memory; else in this process's, with Python and the file of the base.
    """
    trained = adapter_parameters(config, train.lora)
    base = weight_bytes(config, train.quantization, train.double_quantization, train.dtype)
    file = weight_bytes(config, "none", False, "bfloat16")
    state = (
        STATE[train.optimizer.removeprefix("paged_")] * trained
    )  # paged: in RAM only where the GPU's runs short
    parts = {
        "CUDA context" if cuda else "Python and libraries": CONTEXT if cuda else LIBRARIES,
        f"base weights ({train.quantization})": base,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer state": state,
        "activations": activations(config, train, batch, cuda),
        "logits and loss": loss_bytes(config, train, batch),
        "working space": working_bytes(config, train, batch),
    }
    widened = widened_bytes(config, train, cuda)
    if widened:
        parts["widened for products"] = widened
    if not cuda:
        parts["lost in the heap"] = int(HEAP * parts["activations"])
        if train.quantization != "none":
            parts[MAPPED] = file
    return parts


def needed(parts: Mapping[str, int]) -> int:
    """Bytes that a machine must have for these parts."""
    return sum(value for name, value in parts.items() if name != MAPPED)
