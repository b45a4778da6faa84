"""Estimate the memory of a QLoRA step, part by part, and of merge's gate and evaluate, from shapes alone.

Training's peak comes when the forward pass of the largest micro batch ends: weights, adapter, gradients and optimizer
state are in memory, every layer's activations are kept, and the first gradients are computed.
`python -m benchmarks.plan memory` compares the sum with measured peaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.common.model.attention.dense import BLOCK_TOKENS
from stages.common.model.attention.interface import DENSE_TOKENS
from stages.common.model.loss import CHUNK_TOKENS
from stages.common.model.shapes import ModelShapes

MIB = 2**20
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
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
PROMPT_TOKENS = 256  # of a benchmark's problem, assumed
GATE_COPIES = 6  # of a chunk's logits in float32 while two models' distributions are compared


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


def adapted_layers(model: Any, lora: Any) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each layer that gets an adapter, as train and peft choose them.

    Raises:
        UserError: a name or the pattern of `train.lora.target_modules` fits no linear layer.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists
    from torch import nn

    from stages.train.lora_adapter import resolve_target_modules

    config = LoraConfig(target_modules=resolve_target_modules(model, lora.target_modules))
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and check_target_module_exists(config, name)
    }


def adapter_parameters(layers: Mapping[str, tuple[int, int]], lora: Any) -> int:
    """Count trained values: A and B of each adapted layer, and DoRA's magnitudes."""
    return sum(lora.rank * (a + b) + (b if lora.dora else 0) for a, b in layers.values())


def weight_bytes(shapes: ModelShapes, quantization: str, double: bool, dtype: str) -> int:
    """Return the bytes of the frozen base as training holds it."""
    linear, other = shapes.linear_weights, shapes.other * DTYPE_BYTES[dtype]
    if quantization == "none":
        return linear * DTYPE_BYTES[dtype] + other
    if quantization == "int8":  # a float32 scale per output
        return linear + 4 * sum(b for _, b in shapes.linear.values()) + other
    scales = linear // BLOCK
    bytes_of_scales = scales + 4 * scales // SUPERBLOCK if double else 4 * scales
    return linear * BITS[quantization] // 8 + bytes_of_scales + other


def layer_activations(shapes: ModelShapes, train: Any, batch: Batch, adapted: int, cuda: bool) -> int:
    """Return the bytes that one decoder layer keeps for its backward pass.

    Per token: the inputs of each norm and each linear layer, queries, keys and values, the activation
    function's input and the two factors of the gate, A x of each adapter; with dropout, each adapter's own
    input and mask. Attention: probabilities if it is `dense`, otherwise its output's normalizers.

    Args:
        adapted: layers of the whole model that have an adapter.
    """
    width, hidden, inner = DTYPE_BYTES[train.dtype], shapes.hidden, shapes.inner
    queries = shapes.heads * shapes.head_size
    # into norms, and out of all linear layers but the two that add to the states
    kept: float = sum(b for _, b in shapes.linear.values()) / shapes.layers + inner
    kept += adapted / shapes.layers * train.lora.rank
    if train.lora.dropout:
        mask = 1 / width if cuda else 1
        inputs = sum(a for a, _ in shapes.linear.values()) / max(1, len(shapes.linear))
        kept += adapted / shapes.layers * inputs * (1 + mask)
    else:
        kept += 2 * hidden + queries + inner  # into q, k, v; into gate and up; into o; into down
    per_token = kept * width + 2 * 4  # and the divisors of the two norms
    if is_dense(train, batch, cuda):
        attention = shapes.heads * batch.pairs * width
    else:
        attention = batch.tokens * (4 * shapes.heads + (queries * width if train.lora.dropout else 0))
    return int(batch.tokens * per_token + attention)


def is_dense(train: Any, batch: Batch, cuda: bool) -> bool:
    """Whether attention keeps its probabilities (see stages/common/model/attention/interface.py)."""
    kind = train.attention
    return kind == "dense" or (kind == "auto" and not cuda and batch.longest <= DENSE_TOKENS)


def activation_bytes(shapes: ModelShapes, train: Any, batch: Batch, adapted: int, cuda: bool) -> int:
    """Return the bytes kept when the forward pass ends; with checkpointing all inputs and one layer's."""
    layer = layer_activations(shapes, train, batch, adapted, cuda)
    if not train.gradient_checkpointing:
        return shapes.layers * layer
    return shapes.layers * batch.tokens * shapes.hidden * DTYPE_BYTES[train.dtype] + layer


def loss_bytes(shapes: ModelShapes, train: Any, batch: Batch) -> int:
    """Return the bytes of a chunk's logits, their float32 logarithms (later the gradient), and states."""
    rows = min(CHUNK_TOKENS, batch.labelled)
    return rows * shapes.vocabulary * 8 + 2 * batch.labelled * shapes.hidden * DTYPE_BYTES[train.dtype]


def widened_bytes(shapes: ModelShapes, train: Any, cuda: bool) -> int:
    """Return the bytes of head and largest weight in float32, if bfloat16 products are widened here."""
    from stages.common.model.products import multiplies_bfloat16

    if cuda or train.dtype != "bfloat16" or multiplies_bfloat16():
        return 0
    return 4 * (shapes.hidden * shapes.vocabulary + shapes.largest)


def working_bytes(shapes: ModelShapes, train: Any, batch: Batch) -> int:
    """Return the bytes of one layer's gradients while computed, and of the largest weight dequantized."""
    width = DTYPE_BYTES[train.dtype]
    return batch.tokens * (3 * shapes.inner + 2 * shapes.hidden) * width + shapes.largest * width


def memory_parts(
    shapes: ModelShapes, train: Any, batch: Batch, layers: Mapping[str, tuple[int, int]], cuda: bool
) -> dict[str, int]:
    """Return the bytes of each part at the peak of a training step, by name.

    Args:
        train: the section `train`.
        batch: the micro batch that takes the most memory.
        layers: that get an adapter.
        cuda: whether the parts are in a GPU's memory; otherwise in RAM, with Python and the mapped file of
            the base.
    """
    trained = adapter_parameters(layers, train.lora)
    # a paged optimizer moves its state to RAM only when the GPU's memory runs short
    state = STATE_BYTES[train.optimizer.removeprefix("paged_")] * trained
    parts = {
        "CUDA context" if cuda else "Python and libraries": CONTEXT if cuda else LIBRARIES,
        f"base weights ({train.quantization})": weight_bytes(
            shapes, train.quantization, train.double_quantization, train.dtype
        ),
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer state": state,
        "activations": activation_bytes(shapes, train, batch, len(layers), cuda),
        "logits and loss": loss_bytes(shapes, train, batch),
        "working space": working_bytes(shapes, train, batch),
    }
    widened = widened_bytes(shapes, train, cuda)
    if widened:
        parts["widened for products"] = widened
    if not cuda:
        parts["lost in the heap"] = int(HEAP * parts["activations"])
        if train.quantization != "none":
            parts[MAPPED] = weight_bytes(shapes, "none", False, "bfloat16")
    return parts


def required_bytes(parts: Mapping[str, int]) -> int:
    """Return the bytes that a machine must have free for these parts."""
    return sum(value for name, value in parts.items() if name != MAPPED)


def gate_bytes(shapes: ModelShapes, sections: Mapping[str, Any], cuda: bool) -> int:
    """Return the bytes of merge's gate: the larger of two models, one row's pass, both models' states and logits."""
    from stages.merge.__main__ import PACKS_PER_ROW

    train, merge, pack = sections["train"], sections["merge"], sections["pack"]
    if not merge.parity_tokens:
        return 0
    tokens = min(PACKS_PER_ROW * pack.max_length, merge.parity_tokens)
    row = Batch(tokens, 0, pack.max_length, tokens)
    passing = working_bytes(shapes, train, row) + widened_bytes(shapes, train, cuda)
    states = 2 * merge.parity_tokens * shapes.hidden * DTYPE_BYTES[train.dtype]
    logits = GATE_COPIES * 4 * CHUNK_TOKENS * shapes.vocabulary
    merged = weight_bytes(shapes, "none", False, train.dtype)
    return merged + passing + states + logits + (CONTEXT if cuda else LIBRARIES)


def evaluate_bytes(shapes: ModelShapes, evaluate: Any, free: int, cuda: bool) -> int:
    """Return the bytes of generation: weights, and rows as far as `evaluate.memory_gib` lets them into memory.

    Args:
        evaluate: the section `evaluate`.
        free: bytes that are free on the device.
    """
    from stages.generation.token_budget import FREE_SHARE, LOGIT_BYTES

    dtype = evaluate.dtype if evaluate.dtype != "auto" else "bfloat16" if cuda else "float32"
    kept = 2 * shapes.layers * shapes.key_heads * shapes.head_size * DTYPE_BYTES[dtype]
    rows = evaluate.batch_size * (
        (PROMPT_TOKENS + evaluate.max_new_tokens) * kept + LOGIT_BYTES * shapes.vocabulary
    )
    limit = evaluate.memory_gib * 2**30 or FREE_SHARE["cuda" if cuda else "cpu"] * free
    return (
        weight_bytes(shapes, "none", False, dtype) + int(min(rows, limit)) + (CONTEXT if cuda else LIBRARIES)
    )
