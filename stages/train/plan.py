"""Which packs are trained on, in which order: a function of settings and seed alone."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.common.packs import Packs

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings


def plan(tokens: Sequence[int], settings: "TrainSettings") -> list[int]:
    """Indices of packs in training order, all epochs in one sequence.

    Every epoch visits each pack once, in an order of its own. The sequence is cut by `epochs`, `max_tokens` and
    `max_steps`, whichever comes first, and holds one pack at least. An optimizer step may span two epochs.

    Args:
        tokens: tokens of each pack.
    """
    wanted = max(1, round(settings.epochs * len(tokens)))
    if settings.max_steps:
        wanted = min(wanted, settings.max_steps * settings.micro_batch * settings.accumulation)
    order: list[int] = []
    for epoch in range(-(-wanted // len(tokens))):
        shuffled = list(range(len(tokens)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(shuffled)
        order += shuffled
    return within(order[:wanted], tokens, settings.max_tokens)


def within(order: Sequence[int], tokens: Sequence[int], max_tokens: int) -> list[int]:
    """The longest beginning of `order` with at most `max_tokens` tokens (0: all of it), one pack at least."""
    kept: list[int] = []
    total = 0
    for index in order:
        total += tokens[index]
        if max_tokens and kept and total > max_tokens:
            break
        kept.append(index)
    return kept


class PlannedPacks:
    """The packs in training order, as the data set that the Trainer reads from front to back."""

    def __init__(self, packs: Packs, order: Sequence[int]) -> None:
        self._packs, self._order = packs, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._packs[self._order[index]]
