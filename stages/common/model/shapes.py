"""Count a model's weights and the useful operations of training it, from its modules: of a meta model or the real one.

Counted here only, so that a benchmark, a plan and a progress line mean the same by a share of the peak.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the product that `gemm_rate` times


@dataclass(frozen=True)
class ModelShapes:
    """Sizes of a causal language model without an adapter."""

    # inputs and outputs of each linear layer except the head, by the name of its module
    linear: dict[str, tuple[int, int]]
    # values of all other tensors, each once: embeddings, a head that is not tied to them, norms, biases, experts
    other: int
    # weights of the experts that one token passes through, of all layers
    experts: int
    # decoder layers
    layers: int
    hidden: int
    # between the two products of an MLP
    inner: int
    heads: int
    # of keys and values
    key_heads: int
    head_size: int
    vocabulary: int

    @property
    def linear_weights(self) -> int:
        return sum(a * b for a, b in self.linear.values())

    @property
    def largest(self) -> int:
        """Weights of the largest linear layer."""
        return max((a * b for a, b in self.linear.values()), default=0)


def model_shapes(model: Any) -> ModelShapes:
    """Return the sizes of a transformers model to which no adapter was added; its weights may be quantized."""
    from torch import nn

    text, head = model.config.get_text_config(), model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    quantized = {id(layer.weight) for layer in layers.values()}
    others = [p for p in model.parameters() if id(p) not in quantized]
    chosen = getattr(text, "num_experts_per_tok", None) or 0
    heads = getattr(text, "num_attention_heads", None) or 0
    return ModelShapes(
        linear={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        other=sum(p.numel() for p in others),
        experts=sum(p.numel() // len(p) * chosen for p in others if p.ndim == 3) if chosen else 0,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        heads=heads,
        key_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0),
        vocabulary=text.vocab_size,
    )


def empty_model(config: Any) -> "nn.Module":
    """Return the model of a configuration on the meta device: its modules, without memory for weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def training_flops(shapes: ModelShapes, lengths: Sequence[int], labelled: int, adapter: int = 0) -> float:
    """Count the useful floating-point operations of one forward and backward pass over documents.

    A product of (m, k) by (k, n) is 2mkn. With T tokens, and a linear layer of a inputs and b outputs:

    - frozen weight: 4Tab, forward and the gradient of its input;
    - its adapter of rank r: 6Tr(a + b), forward, gradient of its input, gradients of A and B;
    - attention: causal and within a document of n tokens, q = heads x size: forward 4qn(n + 1)/2, backward twice that;
    - head: 4 x labelled x hidden x vocabulary, of labelled tokens only, forward and the gradient of its input.

    Recomputed activations, dequantization, norms, softmax and the optimizer do not count: more of them lowers the share
    of the peak.

    Args:
        lengths: tokens of each document.
        labelled: tokens with a loss, of all documents.
        adapter: weights of A and B, of all layers.
    """
    tokens, queries = sum(lengths), shapes.heads * shapes.head_size
    attention = 3 * sum(4 * queries * length * (length + 1) / 2 for length in lengths)
    head = 4 * labelled * shapes.hidden * shapes.vocabulary
    frozen = 4 * (shapes.linear_weights + shapes.experts)
    return tokens * (frozen + 6 * adapter) + shapes.layers * attention + head


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
