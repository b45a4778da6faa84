"""A linear layer with a LoRA update, y = W x + s B A x, for weights of 4, 8 and 16 bits alike.

Quantized layers without an adapter use the same dequantized weight, so that every layer multiplies by `dense_weight`.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from stages.common.model.lora_matmul import FrozenMatmul, LoraMatmul
from stages.common.model.products import is_widened
from stages.common.model.quantize import dense_weight, is_quantized

SHARING = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)  # layers that read one input, in Llama-like models


def attach_adapter(model: nn.Module, config: LoraConfig) -> Any:
    """Put a new adapter on the layers that `config` names, through peft, with `LoraLinear` as the layer class."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from peft import get_peft_model

    config._register_custom_module(dict.fromkeys((Linear4bit, Linear8bitLt, nn.Linear), LoraLinear))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses deprecated names of transformers
        adapted = get_peft_model(model, config)
    share_inputs(adapted)
    return adapted


def low_rank_update(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Return s B A, float32 (out, in), from A (rank, in) and B (out, rank)."""
    return (b.detach().float() @ a.detach().float()).mul_(scale)


def updated_weight(
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    magnitude: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weight of a layer with an adapter: V = W + s B A, or with DoRA each row of V at its magnitude.

    Args:
        weight: W, float32 (out, in), dequantized.
        magnitude: (out,), or None without DoRA (arXiv:2402.09353).

    Returns:
        float32 (out, in).
    """
    updated = low_rank_update(a, b, scale).add_(weight)
    if magnitude is not None:
        updated.mul_((magnitude.detach() / updated.norm(dim=1))[:, None])
    return updated


def replace_linear_forwards(model: nn.Module) -> None:
    """Make quantized layers, and layers whose dtype is widened for products, multiply by `dense_weight`.

    In training and evaluation alike. bitsandbytes' own int8 layer quantizes the inputs too, though on a CPU in
    evaluation only; PyTorch's layers multiply in the weight's dtype, which may be the slow one.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for layer in layers:
        if not is_quantized(layer.weight) and not is_widened(layer.weight):
            continue
        layer.forward = lambda x, layer=layer: FrozenMatmul.apply(x, layer.weight, layer.bias)


class SharedInput:
    """Layers that read one input, as those of queries, keys and values do: the first that is called computes for all.

    What it computed waits for the others. They get it only for the very tensor that it was made of; so layers that
    turn out to read several inputs compute what is right, though too much of it.
    """

    def __init__(self, layers: "Sequence[LoraLinear]") -> None:
        self.layers = layers
        self._input: torch.Tensor | None = None
        self._waiting: dict[LoraLinear, torch.Tensor] = {}

    def possible(self) -> bool:
        """Whether all layers do the same now: nothing switched off, no dropout or DoRA of their own."""
        return all(layer.is_plain() for layer in self.layers)

    def __call__(self, layer: "LoraLinear", x: torch.Tensor) -> torch.Tensor:
        if self._input is not x or layer not in self._waiting:
            outputs = lora_matmul(self.layers, x, None)
            self._input, self._waiting = x, dict(zip(self.layers, outputs, strict=True))
        output = self._waiting.pop(layer)
        if not self._waiting:
            self._input = None
        return output


def share_inputs(model: nn.Module) -> None:
    """Make the layers of `model` that read one input compute together."""
    for module in model.modules():
        for names in SHARING:
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, LoraLinear) for layer in layers):
                shared = SharedInput(layers)  # type: ignore[arg-type]
                for layer in layers:
                    layer.shared = shared  # type: ignore[union-attr]


def lora_matmul(
    layers: "Sequence[LoraLinear]", x: torch.Tensor, dropped: torch.Tensor | None, bias: bool = True
) -> tuple[torch.Tensor, ...]:
    """Return the output of each of these layers for x; `dropped` is x after dropout, None without dropout."""
    bases = [layer.get_base_layer() for layer in layers]
    frozen = [
        (base.weight, base.bias if bias else None, layer.scale)
        for base, layer in zip(bases, layers, strict=True)
    ]
    return LoraMatmul.apply(x, dropped, frozen, *(matrix for layer in layers for matrix in layer.adapter))


class LoraLinear(nn.Module, LoraLayer):
    """Replaces peft's LoRA layers over `nn.Linear` and over those of bitsandbytes; one adapter at a time."""

    base_layer: Any  # peft is not typed
    lora_A: Any
    lora_B: Any
    lora_magnitude_vector: Any
    lora_dropout: Any
    in_features: Any
    out_features: Any
    scaling: Any
    update_layer: Any
    get_base_layer: Any
    active_adapters: Any

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: LoraConfig,
        r: int = 0,
        lora_alpha: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self.fan_in_fan_out = False
        self.shared: SharedInput | None = None
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        """Return where peft puts a new adapter: drawn in float32, never rounded to the base's dtype."""
        return self.get_base_layer().weight.device, torch.float32

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        return {(): None, ("use_dora",): DoraVariant}

    @property
    def adapter(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (rank, in) and B (out, rank)."""
        name = self.active_adapters[0]
        return self.lora_A[name].weight, self.lora_B[name].weight

    @property
    def scale(self) -> float:
        return self.scaling[self.active_adapters[0]]

    @property
    def magnitude(self) -> torch.Tensor | None:
        """DoRA's (out,)."""
        name = self.active_adapters[0]
        return self.lora_magnitude_vector[name].weight if name in self.lora_magnitude_vector else None

    def drops(self) -> bool:
        dropout = self.lora_dropout[self.active_adapters[0]]
        return isinstance(dropout, nn.Dropout) and dropout.training

    def is_plain(self) -> bool:
        return not self.disable_adapters and not self.drops() and self.magnitude is None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.disable_adapters:
            base = self.get_base_layer()
            return FrozenMatmul.apply(x, base.weight, base.bias)
        if self.shared is not None and self.shared.possible():
            return self.shared(self, x)
        dropped = self.lora_dropout[self.active_adapters[0]](x) if self.drops() else None
        if self.magnitude is not None:
            return self.dora(x, dropped, self.magnitude)
        return lora_matmul([self], x, dropped)[0]

    def dora(self, x: torch.Tensor, dropped: torch.Tensor | None, magnitude: torch.Tensor) -> torch.Tensor:
        """peft's DoRA: W x + (g - 1) W x' + g s B A x' + bias, g = magnitude / norm of each row of W + s B A.

        The norm is a constant to the gradient (section 4.3 of arXiv:2402.09353); x' is x after dropout.
        """
        base = self.get_base_layer()
        with torch.no_grad():
            norm = row_norms(base.weight, *self.adapter, self.scale)
        (y,) = lora_matmul([self], x, dropped, bias=False)
        inner = y if dropped is None else lora_matmul([self], dropped, None, bias=False)[0]
        y = y + (magnitude / norm - 1).to(x.dtype) * inner
        return y if base.bias is None else y + base.bias

    def trained_weight(self) -> torch.Tensor:
        """Return the weight (out, in) that this layer multiplies by, unrounded: float32."""
        weight = dense_weight(self.get_base_layer().weight, torch.float32)
        return updated_weight(weight, *self.adapter, self.scale, self.magnitude)


def row_norms(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the norm of each row of W + s B A, float32 (out,); W may be quantized."""
    return low_rank_update(a, b, scale).add_(dense_weight(weight, torch.float32)).norm(dim=1)


class DoraVariant(LoraVariant):
    """Gives a layer its magnitudes, initialised with the norms of its rows; the layer's `forward` uses them."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        magnitude = DoraLinearLayer(fan_in_fan_out=False)
        a, b = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        with torch.no_grad():
            norm = row_norms(module.get_base_layer().weight, a, b, module.scaling[adapter_name])
        magnitude.weight = nn.Parameter(norm)
        module.lora_magnitude_vector[adapter_name] = magnitude
