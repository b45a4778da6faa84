"""Settings of the merge stage: what the adapter is merged into, and the limits of the parity gate."""

from dataclasses import dataclass

from stages.common.core.settings import require

BASES = ("dequantized", "original")


@dataclass
class MergeSettings:
    # dequantized: the weights that training multiplied by, so the merged model is the trained one | original:
    # the base's own weights, which gives another function: training never saw what quantization lost, and the
    # update may have compensated for it
    base: str = "dequantized"
    # tokens of held-out packs on which the merged model is compared with the trained one; more take longer.
    # 0: no comparison and no limits; reports that show the merged model then say so
    parity_tokens: int = 6144
    # The stage fails beyond these limits.
    # KL(adapter on the quantized base || merged), nats per labelled token, above 0
    max_mean_kl: float = 0.02
    # the same, of the median token: a merge that is wrong everywhere moves it, the tail of rare labels does not
    max_median_kl: float = 0.01
    # the same, below which 99% of the tokens lie: a merge that is wrong for some tokens moves it
    max_kl_p99: float = 0.3
    # largest difference of any logit, above 0
    max_logit_difference: float = 4.0
    # share of labelled tokens with the same most likely token, 0 to 1
    min_top1_agreement: float = 0.97

    def __post_init__(self) -> None:
        require(self.base in BASES, "merge.base", self.base, "one of " + ", ".join(BASES))
        require(self.parity_tokens >= 0, "merge.parity_tokens", self.parity_tokens, "0 or more")
        for key in ("max_mean_kl", "max_median_kl", "max_kl_p99", "max_logit_difference"):
            require(getattr(self, key) > 0, f"merge.{key}", getattr(self, key), "a number above 0")
        require(
            0 <= self.min_top1_agreement <= 1,
            "merge.min_top1_agreement",
            self.min_top1_agreement,
            "a share in [0, 1]",
        )
