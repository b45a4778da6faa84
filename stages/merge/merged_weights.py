"""Compute the weights of the merged model, one at a time.

Training computed `dequantize(Q(W)) x + s B A x`, so the merged weight is `dequantize(Q(W)) + s B A`; merging
into the 16-bit W gives another function (peft #2321). The sum is computed in float32 and rounded once at the
end. Dequantizing to bfloat16 first, as training did for its products, would put W on the rounding grid: every
update smaller than half a step would be lost instead of being right on average [measured: three times the KL
to the unrounded sum].
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
            first = 0 if update.initial is None else low_rank_update(*update.initial, update.scale)
            return weight.float() - first
        return round_trip(weight, self.quantization)

    def formula(self) -> str:
        """Describe what `merged_weight` computes, for the manifest."""
        text = FORMULAS[self.base]
        if self.base == "original" and any(u.initial is not None for u in self.updates.values()):
            text = FROM_INITIAL
        if any(u.magnitude is not None for u in self.updates.values()):
            text += DORA_SUFFIX
        return f"{text}; in float32, rounded once"
