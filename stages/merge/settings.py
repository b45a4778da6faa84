"""Settings of the merge stage: the limits that the merged model must keep to."""

from dataclasses import dataclass

from stages.common.sections import require


@dataclass
class MergeSettings:
    parity_tokens: int = (
        6144  # tokens of held-out packs on which both models are compared, 1 or more; costs time
    )
    max_mean_kl: float = (
        0.02  # nats a labelled token, KL(adapter on 4-bit || merged); above it the stage fails
    )
    max_logit_difference: float = 4.0  # largest difference of any logit; above it the stage fails
    min_top1_agreement: float = (
        0.97  # share of labelled tokens with the same likeliest token; below it: fails
    )
    max_loss_difference: float = 0.01  # nats, between the validation losses of both; above it the stage fails

    def __post_init__(self) -> None:
        require(self.parity_tokens >= 1, "merge.parity_tokens", self.parity_tokens, "at least 1")
        for key in ("max_mean_kl", "max_logit_difference", "max_loss_difference"):
            require(getattr(self, key) > 0, f"merge.{key}", getattr(self, key), "a number above 0")
        require(
            0 <= self.min_top1_agreement <= 1,
            "merge.min_top1_agreement",
            self.min_top1_agreement,
            "a share in [0, 1]",
        )
