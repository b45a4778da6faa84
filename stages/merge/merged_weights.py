"""Compute the weights of the merged model, one at a time.

Training computed `dequantize(Q(W)) x + s B A x`, so the merged weight is `dequantize(Q(W)) + s B A`; merging
into the 16-bit W gives another function (peft #2321). The sum is computed in float32 and rounded once at the
end. Dequantizing to bfloat16 first, as training did for its products, would put W on the rounding grid: every
update smaller than half a step would be lost instead of being right on average [measured: three times the KL
to the unrounded sum].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.core.errors import UserError
from stages.common.model.lora import low_rank_update, updated_weight
from stages.common.model.quantize import Quantization, round_trip
from stages.merge.adapter_weights import LayerUpdate

FORMULAS = {
    "dequantized": "dequantize(Q(W)) + s B A of layers with an adapter, dequantize(Q(W)) of the other "
    "quantized layers",
    "original": "W + s B A of layers with an adapter",
}
FROM_INITIAL = "W + s (B A - B0 A0) of layers with an adapter; A0 and B0 are what training began with"
DORA_SUFFIX = "; then each row is scaled to its magnitude (DoRA)"


@dataclass(frozen=True)
class Recipe:
    """How each weight of the base becomes one of the merged model."""

    # dequantized | original
    base: str
    quantization: Quantization
    # by name of the weight
    updates: Mapping[str, LayerUpdate]
    # names of the weights that training saw quantized
    quantized: frozenset[str]

    @property
    def changed(self) -> frozenset[str]:
        """Names of the weights that differ from the base's."""
        return frozenset(self.updates) | (self.quantized if self.base == "dequantized" else frozenset())

    def merged_weight(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the merged weight for a name in `changed`.

        Args:
            weight: from the base's file, (out, in).

        Returns:
            float32 (out, in).

        Raises:
            UserError: the update has another shape.
        """
        update = self.updates.get(name)
        if update is None:
            return round_trip(weight, self.quantization)
        if tuple(weight.shape) != update.shape:
            raise UserError(
                f"{name} is {tuple(weight.shape)} in the base, but the adapter was trained on "
                f"{update.shape}: it belongs to another base. Run `dvc repro train`."
            )
        frozen = self.frozen_weight(weight, update)
        a, b = update.a.to(frozen.device), update.b.to(frozen.device)
        magnitude = None if update.magnitude is None else update.magnitude.to(frozen.device)
        return updated_weight(frozen, a, b, update.scale, magnitude)

    def frozen_weight(self, weight: torch.Tensor, update: LayerUpdate) -> torch.Tensor:
        """Return the weight that the update is added to, float32."""
        if self.base == "original":
            if update.initial is None and self.quantization.initialisation == "default":
                return weight.float()
            if update.initial is None:
                raise UserError(
                    "models/adapter: initial.safetensors, with what LoftQ began with, is missing. Run "
                    "`dvc repro -f -s train`."
                )
            return weight.float() - low_rank_update(*update.initial, update.scale)
        return round_trip(weight, self.quantization)

    def formula(self) -> str:
        """Describe what `merged_weight` computes, for the manifest."""
        text = FORMULAS[self.base]
        if self.base == "original" and any(u.initial is not None for u in self.updates.values()):
            text = FROM_INITIAL
        if any(u.magnitude is not None for u in self.updates.values()):
            text += DORA_SUFFIX
        return f"{text}; in float32, rounded once"


def quantized_weights(base: Path, quantization: Quantization) -> frozenset[str]:
    """Return the names of the weights that loading quantizes: all linear layers except the head.

    Raises:
        UserError: the model does not load, or stores its weights transposed.
    """
    if quantization.quantization == "none":
        return frozenset()
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers import AutoHfQuantizer

    try:
        config = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise UserError(f"{base}: the model does not load: {error}") from error
    # the same layers in 4 and in 8 bits
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True), pre_quantized=False)
    quantizer.preprocess_model(model, device_map={"": "cpu"})
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    transposed = [name for name, module in layers.items() if issubclass(module.source_cls, Conv1D)]
    if transposed:
        raise UserError(
            f"{base}: {transposed[0]} stores its weight transposed (Conv1D), which merge does not support. "
            "Choose another base."
        )
    return frozenset(f"{name}.weight" for name in layers)
