"""Divide the packs of an optimizer step among the processes (ranks) of a training, and let the ranks communicate.

A step's packs do not depend on the number of ranks: they are cut into micro batches, and rank r takes the micro batches
r, r + ranks, r + 2 ranks ... of each step. So a checkpoint made on two ranks can be resumed on one: same packs, same
micro batches, same random draws in each; only the order in which gradients are summed differs.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stages.common.model.packs import IGNORED, flatten_packs
from stages.train.schedule import OrderedPacks

if TYPE_CHECKING:
    from accelerate import Accelerator

    from stages.common.model.packed_model import PackedModel

T = TypeVar("T")
# What a rank without a micro batch computes: one token without a label, whose gradient is zero. It must take part in
# the exchange of gradients (and under FSDP of weights), or the others would wait for it
EMPTY_PACK = {"input_ids": [0], "labels": [IGNORED], "lengths": [1]}


class MicroBatches:
    """The micro batches of one rank, read from front to back.

    An item is a row from `flatten_packs`, with `packs` (how many; 0: it is `EMPTY_PACK`) and `number` (of the micro
    batch in the whole training, over all ranks).

    Args:
        packs: in training order.
        micro_batch: packs per micro batch.
        accumulation: micro batches per step, over all ranks.
    """

    def __init__(
        self, packs: OrderedPacks, micro_batch: int, accumulation: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self._packs, self._size, self._accumulation = packs, micro_batch, accumulation
        self._rank, self._ranks = rank, ranks
        self._total = -(-len(packs) // micro_batch)
        self.rounds = -(-accumulation // ranks)  # micro batches per step on one rank

    def __len__(self) -> int:
        steps, rest = divmod(self._total, self._accumulation)
        return steps * self.rounds + -(-rest // self._ranks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.rounds)
        place = place * self._ranks + self._rank
        number = step * self._accumulation + place
        first = number * self._size
        if place >= self._accumulation or first >= len(self._packs):
            return {**flatten_packs([EMPTY_PACK]), "packs": 0, "number": number}
        indices = range(first, min(first + self._size, len(self._packs)))
        return {**flatten_packs([self._packs[i] for i in indices]), "packs": len(indices), "number": number}


def micro_batch_seed(seed: int, number: int) -> int:
    """Return the random seed of a micro batch (for dropout): the same on any rank, and after any restart."""
    return random.Random(f"{seed}/micro batch {number}").getrandbits(63)


def mean_loss_of_ranks(
    model: "PackedModel", rows: Sequence[dict[str, Any]], accelerator: "Accelerator"
) -> float | None:
    """Compute `mean_loss` with the rows divided among the ranks; all ranks return the same value."""
    import torch

    from stages.common.model.loss import labelled_targets
    from stages.common.model.packed_model import mean_loss

    rank, ranks = accelerator.process_index, accelerator.num_processes
    if ranks == 1:
        return mean_loss(model, rows)
    own = list(rows[rank::ranks])
    tokens = sum(len(labelled_targets(row["labels"])[1]) for row in own)
    if len(own) < -(-len(rows) // ranks):
        own.append(flatten_packs([EMPTY_PACK]))
    total = (mean_loss(model, own) or 0.0) * tokens
    sums = torch.tensor([total, tokens], dtype=torch.float64, device=accelerator.device)
    total, tokens = accelerator.reduce(sums, "sum").tolist()
    return total / tokens if tokens else None


def is_rank() -> bool:
    """Return whether `accelerate launch` or torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def is_first_rank() -> bool:
    """Return whether this process is the first rank, or the only process: it alone prints."""
    return os.environ.get("RANK", "0") == "0"


def threads_per_rank(ranks: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def join_ranks() -> tuple[int, int]:
    """Connect this rank to the others; return its number and how many there are (0, 1 for a single process)."""
    if not is_rank():
        return 0, 1
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())  # picks this rank's GPU
    return state.process_index, state.num_processes


def from_first_rank(compute: Callable[[], T]) -> T:
    """Compute a value on the first rank and return it on all."""
    if not is_rank():
        return compute()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    values: list[Any] = [compute() if PartialState().is_main_process else None]
    broadcast_object_list(values)
    return values[0]


def leave_ranks() -> None:
    """Wait for the other ranks and disconnect: nothing may be exchanged after this."""
    if is_rank():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
