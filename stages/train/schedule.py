"""Which packs are trained on, in which order: a function of settings and seed alone."""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.common.errors import UserError
from stages.common.model.packs import Packs

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings


def order_packs(tokens: Sequence[int], settings: "TrainSettings") -> list[int]:
    """Indices of packs in training order, all epochs in one sequence.

    Every epoch visits each pack once, in an order of its own. The sequence is cut by `epochs`, `max_tokens` and
    `max_steps`, whichever comes first, and holds one pack at least. An optimizer step may span two epochs.

    Args:
        tokens: tokens of each pack.
    """
    wanted = min(allowed_packs(len(tokens), settings).values())
    order: list[int] = []
    for epoch in range(-(-wanted // len(tokens))):
        shuffled = list(range(len(tokens)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(shuffled)
        order += shuffled
    return limit_tokens(order[:wanted], tokens, settings.max_tokens)


def limiting_budget(tokens: Sequence[int], settings: "TrainSettings") -> str:
    """The budget that cuts the plan: `epochs`, `max_steps` or `max_tokens`; the first named where they agree."""
    allowed = allowed_packs(len(tokens), settings)
    first = min(allowed, key=allowed.__getitem__)
    return "max_tokens" if len(order_packs(tokens, settings)) < allowed[first] else first


def allowed_packs(packs: int, settings: "TrainSettings") -> dict[str, int]:
    """How many packs each budget that is set allows, but for `max_tokens`, which depends on their order."""
    allowed = {"epochs": max(1, round(settings.epochs * packs))}
    if settings.max_steps:
        allowed["max_steps"] = settings.max_steps * settings.micro_batch * settings.accumulation
    return allowed


def limit_tokens(order: Sequence[int], tokens: Sequence[int], max_tokens: int) -> list[int]:
    """The longest beginning of `order` with at most `max_tokens` tokens (0: all of it), one pack at least."""
    kept: list[int] = []
    total = 0
    for index in order:
        total += tokens[index]
        if max_tokens and kept and total > max_tokens:
            break
        kept.append(index)
    return kept


def step_count(packs: int, settings: "TrainSettings") -> int:
    """Optimizer steps over that many packs; the last one may have fewer packs than the others."""
    return -(-packs // (settings.micro_batch * settings.accumulation))


def warmup_steps(settings: "TrainSettings", steps: int) -> int:
    """`train.warmup_steps`, or the share `train.warmup` of all steps, rounded up; the last step is none of them."""
    return settings.warmup_steps or min(share_of_steps(settings.warmup, steps), steps - 1)


def share_of_steps(share: float, steps: int) -> int:
    """A share of the steps, rounded up: 0.07 of 100 is 7, which a computer's 0.07 x 100 is a little over."""
    return math.ceil(share * steps - 1e-9)


def refuse_impossible(settings: "TrainSettings", steps: int, validation_packs: int) -> None:
    """What can be known to fail before a model is loaded.

    Raises:
        UserError: the warmup is longer than the training, or validation losses are to be compared and none can be
            measured.
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
            "Raise the share of rows that pack holds out, or leave the key away."
        )


class OrderedPacks:
    """The packs in training order, as the data set that the Trainer reads from front to back."""

    def __init__(self, packs: Packs, order: Sequence[int]) -> None:
        self._packs, self._order = packs, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._packs[self._order[index]]
