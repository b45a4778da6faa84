"""Shapes of a model's linear layers from its config.json, and the useful operations of training it.

Counted here only, so that a benchmark, a plan and a progress line mean the same by a share of the peak.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.core.errors import UserError

Shapes = dict[str, tuple[int, int]]
REQUIRED_KEYS = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the product that `gemm_rate` times
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of config.json that describes the language model, with defaults for keys of older files.

    Raises:
        UserError: a key is missing, or the model is not a Llama-like one of dense layers.
    """
    found = {**config, **(config.get("text_config") or {})}
    missing = [key for key in REQUIRED_KEYS if not found.get(key)]
    if missing:
        raise UserError(
            f"config.json lacks {', '.join(missing)}: only shapes of Llama-like models are known here"
        )
    experts = next((key for key in EXPERT_KEYS if found.get(key)), None)
    if experts:
        raise UserError(f"config.json sets {experts}: shapes of a mixture of experts are not known here")
    heads = found["num_attention_heads"]
    found["num_key_value_heads"] = found.get("num_key_value_heads") or heads
    found["head_dim"] = found.get("head_dim") or found["hidden_size"] // heads
    return found


def linear_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return (inputs, outputs) of each linear layer of one decoder layer, by name; without the head.

    Raises:
        UserError: as `text_config`.
    """
    text = text_config(config)
    hidden, inner, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    queries, keys = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def training_flops(
    config: Mapping[str, Any],
    lengths: Sequence[int],
    labelled: int,
    rank: int,
    adapted: Sequence[str] | None = None,
) -> float:
    """Count the useful floating-point operations of one forward and backward pass over documents.

    A product of (m, k) by (k, n) is 2mkn. With T tokens, and a linear layer of a inputs and b outputs:

    - frozen weight: 4Tab, forward and the gradient of its input;
    - its adapter of rank r: 6Tr(a + b), forward, gradient of its input, gradients of A and B;
    - attention: causal and within a document of n tokens, q = heads x size: forward 4qn(n + 1)/2, backward twice that;
    - head: 4 x labelled x hidden x vocabulary, of labelled tokens only, forward and the gradient of its input.

    Recomputed activations, dequantization, norms, softmax and the optimizer do not count: more of them lowers the share
    of the peak.

    Args:
        config: config.json of the model.
        lengths: tokens of each document.
        labelled: tokens with a loss, of all documents.
        rank: of the adapter; 0: none.
        adapted: names of the linear layers that have an adapter (keys of `linear_shapes`); None: all.

    Raises:
        UserError: as `text_config`.
    """
    text, shapes = text_config(config), linear_shapes(config)
    tokens = sum(lengths)
    queries = text["head_dim"] * text["num_attention_heads"]
    with_adapter = shapes.values() if adapted is None else [shapes[name] for name in adapted]
    frozen = 4 * tokens * sum(a * b for a, b in shapes.values())
    adapters = 6 * tokens * rank * sum(a + b for a, b in with_adapter)
    attention = 3 * sum(4 * queries * length * (length + 1) / 2 for length in lengths)
    head = 4 * labelled * text["hidden_size"] * text["vocab_size"]
    return text["num_hidden_layers"] * (frozen + adapters + attention) + head


def gemm_rate(dtype: str, device: str = "cpu", seconds: float = 1.0) -> float:
    """Measure the best rate of a square matrix product in operations per second: the device's practical peak.

    On a CPU it uses torch's current threads. It draws from its own generator and leaves torch's random state alone.
    Not run on CUDA yet.

    Args:
        dtype: of the matrices, as torch names it.
        device: cpu | cuda.
        seconds: how long to measure; at least two products are made.
    """
    import torch

    size = GEMM_SIZE[device]
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(size, size, generator=generator, device=device, dtype=getattr(torch, dtype))
        for _ in range(2)
    )
    product = torch.empty_like(a)
    best, tries, end = 0.0, 0, time.perf_counter() + seconds
    while tries < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b, out=product)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
        tries += 1
    return best
