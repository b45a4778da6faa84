"""The figures of a planned run that the warnings are based on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.plan.data_estimate import TrainingData
    from stages.plan.device import Hardware
    from stages.plan.memory import Batch

# Standard deviations between rows, in nats per token: of a row's mean loss (SPREAD), and of its change
# (CHANGE) when the mean changes by DIFFERENCE, as evaluations late in a run do. Measured on this project's 56
# validation rows by `python -m benchmarks.plan spread`: 0.023 at a change of 0.007, 0.033 at 0.017.
SPREAD, CHANGE, DIFFERENCE = 0.48, 0.026, 0.01


@dataclass(frozen=True)
class RunFacts:
    """Figures of a run that has not been made yet."""

    # before rows were lost for their length
    rows_in: int
    # trained on
    rows: int
    # drop | truncate | split | fail
    overlong: str
    overlong_rows: int
    overlong_dropped: int
    tokens_lost: int
    max_length: int
    # of the model, in tokens; 0: unknown
    context: int
    # tokens of the training packs over their capacity
    utilisation: float
    packs: int
    packs_per_step: int
    steps: int
    warmup_steps: int
    # passes over the data, limits of tokens and steps considered
    epochs: float
    validation_rows: int
    # pack.validation_share
    validation_share: float
    early_stopping: bool
    rank: int
    alpha: float
    rslora: bool
    learning_rate: float
    optimizer: str
    dtype: str
    # auto | flash | ...
    attention: str
    gradient_checkpointing: bool
    # cpu | cuda
    device: str
    bf16: bool
    # bytes available to training, and their kind: RAM | GPU memory
    memory: int
    memory_name: str
    # bytes that training takes: as configured, without and with gradient checkpointing
    needed: int
    needed_plain: int
    needed_checkpointed: int
    # bytes free, and bytes the run writes
    disk: int
    disk_needed: int
    hours: float

    @property
    def warmup_share(self) -> float:
        return self.warmup_steps / max(1, self.steps)

    @property
    def scale(self) -> float:
        """Factor of the LoRA update."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def validation_error(self) -> float:
        """Standard error of the validation loss in nats; infinite without rows."""
        return SPREAD / self.validation_rows**0.5 if self.validation_rows else float("inf")

    @property
    def change_error(self) -> float:
        """Standard error of the difference between two evaluations of the same rows, in nats."""
        return CHANGE / self.validation_rows**0.5 if self.validation_rows else float("inf")


def run_facts(
    sections: Mapping[str, Any],
    config: Mapping[str, Any],
    data: "TrainingData",
    hardware: "Hardware",
    order: Sequence[int],
    batch: "Batch",
    disk: int,
    seconds: float,
) -> RunFacts:
    """Collect the figures of a run.

    Args:
        sections: the composed configuration, by section.
        config: config.json of the base.
        order: indices of the packs, in training order.
        batch: the micro batch that takes the most memory.
        disk: bytes the run writes.
        seconds: estimated duration of training.
    """
    from stages.pack.model_limits import configured_context
    from stages.plan.memory import memory_parts, required_bytes
    from stages.train.schedule import step_count, warmup_steps

    pack, train = sections["pack"], sections["train"]
    cuda = hardware.device == "cuda"
    needed = {
        checkpointing: required_bytes(
            memory_parts(config, replace(train, gradient_checkpointing=checkpointing), batch, cuda)
        )
        for checkpointing in (False, True)
    }
    steps = step_count(len(order), train)
    return RunFacts(
        rows_in=data.rows_in,
        rows=data.rows,
        overlong=data.overlong,
        overlong_rows=data.overlong_rows,
        overlong_dropped=data.overlong_dropped,
        tokens_lost=data.tokens_lost,
        max_length=pack.max_length,
        context=configured_context(config) or 0,
        utilisation=data.tokens / (len(data.pack_tokens) * pack.max_length),
        packs=len(data.pack_tokens),
        packs_per_step=train.micro_batch * train.accumulation,
        steps=steps,
        warmup_steps=warmup_steps(train, steps),
        epochs=len(order) / len(data.pack_tokens),
        validation_rows=data.validation_rows,
        validation_share=pack.validation_share,
        early_stopping=bool(train.early_stopping_patience or train.keep_best),
        rank=train.lora.rank,
        alpha=train.lora.alpha,
        rslora=train.lora.rslora,
        learning_rate=train.learning_rate,
        optimizer=train.optimizer,
        dtype=train.dtype,
        attention=train.attention,
        gradient_checkpointing=train.gradient_checkpointing,
        device=hardware.device,
        bf16=hardware.bf16,
        memory=hardware.memory,
        memory_name=hardware.memory_name,
        needed=needed[train.gradient_checkpointing],
        needed_plain=needed[False],
        needed_checkpointed=needed[True],
        disk=hardware.disk,
        disk_needed=disk,
        hours=seconds / 3600,
    )
