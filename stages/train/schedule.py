"""Decide which packs are trained on, and in which order: from settings and seed alone."""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.common.core.errors import UserError
from stages.common.model.packs import Packs

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings


def order_packs(tokens: Sequence[int], settings: "TrainSettings") -> list[int]:
    """Return the indices of the packs in training order, all epochs in one sequence.

    Every epoch visits each pack once, in an order of its own. `epochs`, `max_tokens` and `max_steps`, whichever comes
    first, end the sequence; it holds at least one pack. An optimizer step may span two epochs.

    Args:
        tokens: tokens of each pack.
    """
    count = min(allowed_packs(len(tokens), settings).values())
    order: list[int] = []
    for epoch in range(-(-count // len(tokens))):
        shuffled = list(range(len(tokens)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(shuffled)
        order += shuffled
    return limit_tokens(order[:count], tokens, settings.max_tokens)


def limiting_budget(tokens: Sequence[int], settings: "TrainSettings") -> str:
    """Return the budget that ends the training: `epochs`, `max_steps` or `max_tokens`; the first of equals."""
    allowed = allowed_packs(len(tokens), settings)
    first = min(allowed, key=allowed.__getitem__)
    return "max_tokens" if len(order_packs(tokens, settings)) < allowed[first] else first


def allowed_packs(packs: int, settings: "TrainSettings") -> dict[str, int]:
    """Return how many packs each budget allows, except `max_tokens`, which depends on their order."""
    allowed = {"epochs": max(1, round(settings.epochs * packs))}
    if settings.max_steps:
        allowed["max_steps"] = settings.max_steps * settings.micro_batch * settings.accumulation
    return allowed


def limit_tokens(order: Sequence[int], tokens: Sequence[int], max_tokens: int) -> list[int]:
    """Return the longest prefix of `order` with at most `max_tokens` tokens (0: all of it), at least one pack."""
    kept: list[int] = []
    total = 0
    for index in order:
        total += tokens[index]
        if max_tokens and kept and total > max_tokens:
            break
        kept.append(index)
    return kept


def step_count(packs: int, settings: "TrainSettings") -> int:
    """Return the number of optimizer steps over `packs` packs; the last may have fewer packs than the others."""
    return -(-packs // (settings.micro_batch * settings.accumulation))


def warmup_steps(settings: "TrainSettings", steps: int) -> int:
    """Return `train.warmup_steps`, or the share `train.warmup` of all steps, rounded up; never the last step."""
    return settings.warmup_steps or min(share_of_steps(settings.warmup, steps), steps - 1)


def share_of_steps(share: float, steps: int) -> int:
    """Return a share of the steps, rounded up; 0.07 of 100 is 7, although floating point gives slightly more."""
    return math.ceil(share * steps - 1e-9)


def refuse_impossible(settings: "TrainSettings", steps: float, validation_packs: int) -> None:
    """Refuse settings that are bound to fail, before a model is loaded.

    Raises:
        UserError: the warmup is longer than the training, or validation losses are compared and none can be measured.
    """
    if settings.warmup_steps >= steps:
        raise UserError(
            f"train.warmup_steps is {settings.warmup_steps} and the training has {steps} steps: the learning rate "
            "would never reach its peak. Lower it, or set it to 0 and train.warmup to a share of the steps."
        )
    if not validation_packs and (settings.keep_best or settings.early_stopping_patience):
        key = "keep_best" if settings.keep_best else "early_stopping_patience"
        raise UserError(
            f"train.{key} compares validation losses, and data/packed/validation.arrow has no packs. "
            "Raise pack.validation_share, or drop the key."
        )


class OrderedPacks:
    """The packs in training order, as a data set that is read from front to back."""

    def __init__(self, packs: Packs, order: Sequence[int]) -> None:
        self._packs, self._order = packs, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._packs[self._order[index]]
