"""Weights of the merged model, one at a time.

Training computed `dequantize(Q(W)) x + s B A x`, so the merged weight is `dequantize(Q(W)) + s B A`: merging into the
16-bit W is another function (peft #2321). All of it is in float32, rounded once at the end. Dequantizing to bfloat16
first, as training did for its products, would put W on the grid of the rounding: every update smaller than half a step
would be lost, instead of being right on average [measured: three times the KL to the unrounded sum].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.errors import UserError
from stages.common.model.lora import low_rank_update, residual_weight, updated_weight
from stages.common.model.quantize import Quantization, round_trip
from stages.merge.adapter_weights import Update

FORMULAS = {
    "dequantized": "dequantize(Q(W)) + s B A of layers with an adapter, dequantize(Q(W)) of the other quantized layers",
    "original": "W + s B A of layers with an adapter",
}
SUBTRACTED = {
    "dequantized": "dequantize(Q(W - s B0 A0)) + s B A of layers with an adapter, dequantize(Q(W)) of the other quantized "
    "layers; A0 and B0 are what training began with",
    "original": "W + s (B A - B0 A0) of layers with an adapter; A0 and B0 are what training began with",
}
DORA = "; then each row is scaled to its magnitude (DoRA)"


@dataclass(frozen=True)
class Recipe:
    """How each weight of the base becomes one of the merged model."""

    base: str  # dequantized | original
    quantization: Quantization
    updates: Mapping[str, Update]  # by name of the weight
    quantized: frozenset[str]  # names of the weights that training saw quantized

    @property
    def changed(self) -> frozenset[str]:
        """Names of the weights that are not the base's, byte for byte."""
        return frozenset(self.updates) | (self.quantized if self.base == "dequantized" else frozenset())

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight of one that is in `changed`.

        Args:
            weight: as in the base's file, (out, in).

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
                f"{name} is {tuple(weight.shape)} in the base, the adapter was trained on {update.shape}: it belongs to "
                f"another base. Run `dvc repro train`."
            )
        found = self.beneath(weight, update)
        a, b = update.a.to(found.device), update.b.to(found.device)
        magnitude = None if update.magnitude is None else update.magnitude.to(found.device)
        return updated_weight(found, a, b, update.scale, magnitude)

    def beneath(self, weight: torch.Tensor, update: Update) -> torch.Tensor:
        """The weight that the update is added to, float32."""
        if self.base == "original":
            if update.initial is None:
                return weight.float()
            return weight.float() - low_rank_update(*update.initial, update.scale)
        if self.quantization.subtracts:
            if update.initial is None:
                raise UserError(
                    f"models/adapter: its initialisation ({self.quantization.initialisation}) changed the base, and "
                    f"initial.safetensors, which tells how, is not there. Run `dvc repro -f -s train`."
                )
            weight = residual_weight(weight, *update.initial, update.scale, self.quantization)
        return round_trip(weight, self.quantization)

    def formula(self) -> str:
        """What `merged` computes, in words."""
        first = SUBTRACTED if any(u.initial is not None for u in self.updates.values()) else FORMULAS
        text = first[self.base]
        if any(u.magnitude is not None for u in self.updates.values()):
            text += DORA
        return f"{text}; in float32, rounded once"


def quantized_weights(base: Path, quantization: Quantization) -> frozenset[str]:
    """Names of the weights that loading quantizes: of linear layers but the head, found on a model without weights.

    Raises:
        UserError: the model is of a kind whose weights are stored the other way round.
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
    # 4 and 8 bits alike
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True), pre_quantized=False)
    quantizer.preprocess_model(model, device_map={"": "cpu"})
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    turned = [name for name, module in layers.items() if issubclass(module.source_cls, Conv1D)]
    if turned:
        raise UserError(
            f"{base}: {turned[0]} keeps its weight transposed (Conv1D), which merge does not know yet"
        )
    return frozenset(f"{name}.weight" for name in layers)
