"""Settings of the merge stage: what the adapter is merged into, and the limits that the merged model must keep to."""

from dataclasses import dataclass

from stages.common.settings import require

BASES = ("dequantized", "original")


@dataclass
class MergeSettings:
    # dequantized: the weights that training multiplied by, so the merged model is the trained one; original: the base's
    # own weights, which is another function: training never saw what quantization lost, and the update may fit it
    base: str = "dequantized"
    # tokens of held-out packs on which the merged model is compared with the trained one, 1 or more; it costs time.
    # 0: no comparison and no limits, which is said wherever figures of the merged model are shown
    parity_tokens: int = 6144
    # nats a labelled token, KL(adapter on the quantized base || merged), above 0; above it the stage fails
    max_mean_kl: float = 0.02
    max_logit_difference: float = 4.0  # largest difference of any logit, above 0; above it the stage fails
    # share of labelled tokens with the same likeliest token, 0 to 1; below it the stage fails
    min_top1_agreement: float = 0.97
    # nats a token, between the losses of both on these tokens, above 0; above it the stage fails
    max_loss_difference: float = 0.01

    def __post_init__(self) -> None:
        require(self.base in BASES, "merge.base", self.base, "one of " + ", ".join(BASES))
        require(self.parity_tokens >= 0, "merge.parity_tokens", self.parity_tokens, "0 or more")
        for key in ("max_mean_kl", "max_logit_difference", "max_loss_difference"):
            require(getattr(self, key) > 0, f"merge.{key}", getattr(self, key), "a number above 0")
        require(
            0 <= self.min_top1_agreement <= 1,
            "merge.min_top1_agreement",
            self.min_top1_agreement,
            "a share in [0, 1]",
        )
