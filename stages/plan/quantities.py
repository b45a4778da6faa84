"""What the warnings are made of: a few dozen figures of a run that was not made yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.plan.data_estimate import Data
    from stages.plan.device import Machine
    from stages.plan.memory import Batch

# Standard deviations between rows, in nats a token: of a row's mean loss, and of its change where the mean changes by
# DIFFERENCE, which is what evaluations late in a run differ by. Measured on this project's 56 validation rows by
# `python -m benchmarks.plan spread`: 0.023 at a change of 0.007, 0.033 at 0.017.
SPREAD, CHANGE, DIFFERENCE = 0.48, 0.026, 0.01


@dataclass(frozen=True)
class Facts:
    rows_in: int  # before any was lost for its length
    rows: int  # that are trained on
    overlong: str  # drop | truncate | split | fail
    overlong_rows: int
    overlong_dropped: int
    tokens_lost: int
    max_length: int
    context: int  # of the model, tokens; 0: unknown
    utilisation: float  # tokens over room of the training packs
    packs: int
    packs_per_step: int
    steps: int
    warmup_steps: int
    epochs: float  # passes that are made, budgets considered
    validation_rows: int
    early_stopping: bool
    rank: int
    alpha: float
    rslora: bool
    learning_rate: float
    optimizer: str
    dtype: str
    attention: str  # auto | flash | ...
    gradient_checkpointing: bool
    device: str  # cpu | cuda
    bf16: bool
    memory: int  # bytes that training can have
    memory_name: str  # RAM | GPU memory
    needed: int  # bytes
    needed_plain: int  # without gradient checkpointing
    needed_checkpointed: int  # with it
    disk: int  # bytes free
    disk_needed: int
    hours: float

    @property
    def warmup_share(self) -> float:
        return self.warmup_steps / max(1, self.steps)

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def validation_error(self) -> float:
        """Standard error of the validation loss in nats; infinite without rows."""
        return SPREAD / self.validation_rows**0.5 if self.validation_rows else float("inf")

    @property
    def change_error(self) -> float:
        """Standard error of a difference between two evaluations of the same rows."""
        return CHANGE / self.validation_rows**0.5 if self.validation_rows else float("inf")


def facts_of(
    sections: Mapping[str, Any],
    config: Mapping[str, Any],
    data: "Data",
    here: "Machine",
    order: Sequence[int],
    batch: "Batch",
    disk: int,
    seconds: float,
) -> Facts:
    """What the warnings are made of."""
    from stages.plan.memory import memory_parts, needed
    from stages.plan.model_config import context_of
    from stages.train.schedule import step_count, warmup_steps

    pack, train = sections["pack"], sections["train"]
    cuda = here.device == "cuda"
    memory = {
        on: needed(memory_parts(config, replace(train, gradient_checkpointing=on), batch, cuda))
        for on in (False, True)
    }
    steps = step_count(len(order), train)
    return Facts(
        rows_in=data.rows_in,
        rows=data.rows,
        overlong=data.overlong,
        overlong_rows=data.overlong_rows,
        overlong_dropped=data.overlong_dropped,
        tokens_lost=data.tokens_lost,
        max_length=pack.max_length,
        context=context_of(config),
        utilisation=data.tokens / (len(data.pack_tokens) * pack.max_length),
        packs=len(data.pack_tokens),
        packs_per_step=train.micro_batch * train.accumulation,
        steps=steps,
        warmup_steps=warmup_steps(train, steps),
        epochs=len(order) / len(data.pack_tokens),
        validation_rows=data.validation_rows,
        early_stopping=bool(
            getattr(train, "early_stopping_patience", 0) or getattr(train, "keep_best", False)
        ),
        rank=train.lora.rank,
        alpha=train.lora.alpha,
        rslora=train.lora.rslora,
        learning_rate=train.learning_rate,
        optimizer=train.optimizer,
        dtype=train.dtype,
        attention=train.attention,
        gradient_checkpointing=train.gradient_checkpointing,
        device=here.device,
        bf16=here.bf16,
        memory=here.memory,
        memory_name=here.where,
        needed=memory[train.gradient_checkpointing],
        needed_plain=memory[False],
        needed_checkpointed=memory[True],
        disk=here.disk,
        disk_needed=disk,
        hours=seconds / 3600,
    )
