"""Settings of the merge stage."""

from dataclasses import dataclass


@dataclass
class MergeSettings:
    max_mean_kl: float = 0.02  # nats a token, adapter on 4-bit against merged; above it the stage fails
    min_top1_agreement: float = (
        0.97  # share of tokens with the same most likely token; below it the stage fails
    )
