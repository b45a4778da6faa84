"""Estimate the peak memory of a QLoRA step, part by part, from shapes alone.

The peak comes when the forward pass of the largest micro batch ends: weights, adapter, gradients and
optimizer state are in memory, every layer's activations are kept, and the first gradients are computed.
`python -m benchmarks.plan memory` compares the sum with measured peaks.
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
DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
BITS = {"nf4": 4, "fp4": 4, "int8": 8}  # per quantized weight, without scales
BLOCK, SUPERBLOCK = 64, 256  # 4 bits: weights that share a scale, and scales that share a second one
# Bytes of optimizer state per trained value. 8 bits: one byte per moment; Adafactor: two vectors per matrix,
# almost nothing.
STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0, "lion": 4, "muon": 4}
# LIBRARIES: memory of Python and the libraries once a model is loaded, without its weights. HEAP: memory that
# the C library's heap loses between blocks of changing sizes within a dozen steps, as a share of the
# activations. Both are fitted to `python -m benchmarks.plan memory`. CONTEXT: a CUDA context with cuBLAS's
# workspace; a common figure, not measured here.
LIBRARIES, HEAP, CONTEXT = 800 * MIB, 0.4, 600 * MIB
MAPPED = "base's file, mapped"  # resident while RAM is free; the kernel reclaims it otherwise
MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True)
class Batch:
    """The micro batch that takes the most memory."""

    tokens: int
    # `attention_pairs`, summed over its documents
    pairs: int
    # tokens of its longest document
    longest: int
    # tokens with labels
    labelled: int


def attention_pairs(lengths: Any) -> Any:
    """Return the probabilities a head keeps per document of these lengths: causal, by blocks of queries."""
    return lengths * (lengths + np.minimum(lengths, BLOCK_TOKENS)) // 2


def matched_layers(config: Mapping[str, Any], target: Any) -> list[str]:
    """Return the name (q_proj, ...) of each linear layer that peft matches with train.lora.target_modules."""
    matched = []
    for layer in range(text_config(config)["num_hidden_layers"]):
        for parent, names in MODULES.items():
            for name in names:
                path = f"model.layers.{layer}.{parent}.{name}"
                if isinstance(target, str):
                    matches = target == "all-linear" or re.fullmatch(target, path) is not None
                else:
                    matches = any(path == suffix or path.endswith(f".{suffix}") for suffix in target)
                if matches:
                    matched.append(name)
    return matched


def adapter_parameters(config: Mapping[str, Any], lora: Any) -> int:
    """Count trained values: A and B of each adapted layer, and DoRA's magnitudes."""
    shapes = linear_shapes(config)
    dora = getattr(lora, "dora", False)
    return sum(
        lora.rank * sum(shapes[name]) + (shapes[name][1] if dora else 0)
        for name in matched_layers(config, lora.target_modules)
    )


def linear_parameters(config: Mapping[str, Any]) -> int:
    """Count the weights of the layers that are quantized: every linear layer except the head."""
    return text_config(config)["num_hidden_layers"] * sum(a * b for a, b in linear_shapes(config).values())


def other_parameters(config: Mapping[str, Any]) -> int:
    """Count embeddings, the head if it is not tied to them, norms and biases."""
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
    """Return the bytes of the frozen base as training holds it."""
    linear, other = linear_parameters(config), other_parameters(config) * DTYPE_BYTES[dtype]
    if quantization == "none":
        return linear * DTYPE_BYTES[dtype] + other
    if quantization == "int8":  # a float32 scale per output
        rows = sum(b for _, b in linear_shapes(config).values())
        return linear + 4 * text_config(config)["num_hidden_layers"] * rows + other
    scales = linear // BLOCK
    bytes_of_scales = scales + 4 * scales // SUPERBLOCK if double else 4 * scales
    return linear * BITS[quantization] // 8 + bytes_of_scales + other


def layer_activations(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> int:
    """Return the bytes that one decoder layer keeps for its backward pass.

    Per token: the inputs of each norm and each linear layer, queries, keys and values, the activation
    function's input and the two factors of the gate, A x of each adapter; with dropout, each adapter's own
    input and mask. Attention: probabilities if it is `dense`, otherwise its output's normalizers.
    """
    text, shapes = text_config(config), linear_shapes(config)
    width, hidden, inner = DTYPE_BYTES[train.dtype], text["hidden_size"], text["intermediate_size"]
    queries, keys = shapes["q_proj"][1], shapes["k_proj"][1]
    kept = 2 * hidden + queries + 2 * keys + 3 * inner  # into norms; q, k, v; gate, its activation, up
    kept += len(shapes) * train.lora.rank
    if train.lora.dropout:
        mask = 1 / width if cuda else 1
        kept += sum(a * (1 + mask) for a, _ in shapes.values())
    else:
        kept += 2 * hidden + queries + inner  # into q, k, v; into gate and up; into o; into down
    per_token = kept * width + 2 * 4  # and the divisors of the two norms
    heads = text["num_attention_heads"]
    if is_dense(train, batch, cuda):
        attention = heads * batch.pairs * width
    else:
        attention = batch.tokens * (4 * heads + (queries * width if train.lora.dropout else 0))
    return int(batch.tokens * per_token + attention)


def is_dense(train: Any, batch: Batch, cuda: bool) -> bool:
    """Whether attention keeps its probabilities (see stages/common/model/attention/interface.py)."""
    kind = train.attention
    return kind == "dense" or (kind == "auto" and not cuda and batch.longest <= DENSE_TOKENS)


def activation_bytes(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> int:
    """Return the bytes kept when the forward pass ends; with checkpointing all inputs and one layer's."""
    layers, layer = text_config(config)["num_hidden_layers"], layer_activations(config, train, batch, cuda)
    if not train.gradient_checkpointing:
        return layers * layer
    return layers * batch.tokens * text_config(config)["hidden_size"] * DTYPE_BYTES[train.dtype] + layer


def loss_bytes(config: Mapping[str, Any], train: Any, batch: Batch) -> int:
    """Return the bytes of a chunk's logits, their float32 logarithms (later the gradient), and states."""
    rows = min(CHUNK_TOKENS, batch.labelled)
    text, width = text_config(config), DTYPE_BYTES[train.dtype]
    return rows * text["vocab_size"] * 8 + 2 * batch.labelled * text["hidden_size"] * width


def widened_bytes(config: Mapping[str, Any], train: Any, cuda: bool) -> int:
    """Return the bytes of head and largest weight in float32, if bfloat16 products are widened here."""
    from stages.common.model.products import multiplies_bfloat16

    if cuda or train.dtype != "bfloat16" or multiplies_bfloat16():
        return 0
    text, largest = text_config(config), max(a * b for a, b in linear_shapes(config).values())
    return 4 * (text["hidden_size"] * text["vocab_size"] + largest)


def working_bytes(config: Mapping[str, Any], train: Any, batch: Batch) -> int:
    """Return the bytes of one layer's gradients while computed, and of the largest weight dequantized."""
    text, width = text_config(config), DTYPE_BYTES[train.dtype]
    largest = max(a * b for a, b in linear_shapes(config).values()) * width
    return batch.tokens * (3 * text["intermediate_size"] + 2 * text["hidden_size"]) * width + largest


def memory_parts(config: Mapping[str, Any], train: Any, batch: Batch, cuda: bool) -> dict[str, int]:
    """Return the bytes of each part at the peak of a training step, by name.

    Args:
        config: config.json of the base.
        train: the section `train`.
        batch: the micro batch that takes the most memory.
        cuda: whether the parts are in a GPU's memory; otherwise in RAM, with Python and the mapped file of
            the base.
    """
    trained = adapter_parameters(config, train.lora)
    base = weight_bytes(config, train.quantization, train.double_quantization, train.dtype)
    file = weight_bytes(config, "none", False, "bfloat16")
    # a paged optimizer moves its state to RAM only when the GPU's memory runs short
    state = STATE_BYTES[train.optimizer.removeprefix("paged_")] * trained
    parts = {
        "CUDA context" if cuda else "Python and libraries": CONTEXT if cuda else LIBRARIES,
        f"base weights ({train.quantization})": base,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer state": state,
        "activations": activation_bytes(config, train, batch, cuda),
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


def required_bytes(parts: Mapping[str, int]) -> int:
    """Return the bytes that a machine must have free for these parts."""
    return sum(value for name, value in parts.items() if name != MAPPED)
