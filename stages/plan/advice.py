"""Warnings before anything is spent: each names its figure and says what to do."""

import math
from collections.abc import Callable

from stages.plan.data_estimate import TrainingData
from stages.plan.planned_run import (
    CHANGE,
    DIFFERENCE,
    EVALUATE,
    GATE,
    SPREAD,
    PlannedRun,
    standard_error,
    utilisation,
)

WARMUP = 0.10  # share of the steps; Hugging Face's and QLoRA's recipes take 0.03
LONG_WARMUP = 0.25
SCALES = (1.0, 4.0)  # of alpha / rank; LoRA's and QLoRA's recipes take about 2
USUAL_SCALE = 2.0
RATES = (5e-5, 1e-3)  # QLoRA (arXiv:2305.14314) takes 2e-4 up to 13B and 1e-4 above
STEPS = 50
MANY_EPOCHS, FEW_ROWS = 2.0, 2000
FULL = 0.85  # utilisation of packs
HEADROOM = 0.9  # share of memory and disk that a plan may take
GIB = 2**30
FRACTIONS = {0.1: "a tenth", 0.2: "a fifth", 1 / 3: "a third", 0.5: "half", 2 / 3: "two thirds", 1.0: "all"}


def find_warnings(run: PlannedRun) -> dict[str, str]:
    """Return every warning that applies, by its name; those about rows only where rows are known."""
    found = {advice.__name__.removesuffix("_advice"): advice(run) for advice in RUN_ADVICE}
    if isinstance(run.data, TrainingData):
        found |= {advice.__name__.removesuffix("_advice"): advice(run, run.data) for advice in DATA_ADVICE}
    return {name: text for name, text in found.items() if text}


def warmup_advice(run: PlannedRun, data: TrainingData) -> str | None:
    if run.warmup_share <= WARMUP:
        return None
    fraction = FRACTIONS[min(FRACTIONS, key=lambda x: abs(x - run.warmup_share))]
    three_percent = max(1, round(0.03 * run.steps))
    too_slow = (
        " Most of the training runs below the configured learning rate."
        if run.warmup_share > LONG_WARMUP
        else ""
    )
    return (
        f"{run.warmup_steps} warmup steps are {run.warmup_share:.0%} of the {run.steps} steps, about {fraction} "
        f"of the run.{too_slow} Set train.warmup_steps={three_percent}, which is 3%."
    )


def validation_advice(run: PlannedRun, data: TrainingData) -> str | None:
    share = run.sections["pack"].validation_share
    if not data.validation_rows and share:
        return (
            f"no validation rows, although pack.validation_share={share:g}: too few rows, or most "
            "are near duplicates of one another, which stay together. reports/clean.json counts these groups. "
            "Set clean.near.threshold higher, or add sources."
        )
    if not data.validation_rows:
        return (
            "no validation rows: nothing shows when the model stops learning. Set pack.validation_share=0.05."
        )
    change = standard_error(CHANGE, data.validation_rows)
    if 2 * change <= DIFFERENCE:
        return None
    enough = math.ceil((2 * CHANGE / DIFFERENCE) ** 2)
    compares = run.train.early_stopping_patience or run.train.keep_best
    use = "the choice of a checkpoint" if compares else "a choice of runs"
    return (
        f"{data.validation_rows} validation rows cannot support early stopping or {use}: a change of "
        f"{DIFFERENCE:g} nats between two evaluations has a standard error of {change:.3f}, and the "
        f"loss itself one of {standard_error(SPREAD, data.validation_rows):.2f}. Hold out {enough} rows or more "
        "(pack.validation_share), or stop by a budget."
    )


def overlong_advice(run: PlannedRun, data: TrainingData) -> str | None:
    if not data.overlong_rows:
        return None
    treatment = {"truncate": "cut", "split": "split"}.get(data.overlong, "lost")
    can_be_longer = run.context > run.max_length or not run.context
    longer = "Raise pack.max_length, or set" if can_be_longer else "Set"
    other = (
        "pack.overlong=truncate or split"
        if data.overlong in ("drop", "fail")
        else "pack.overlong=drop to leave them out"
    )
    return (
        f"{data.overlong_rows} of {data.rows_in} rows over {run.max_length} tokens (prompt format included) are "
        f"{treatment}, which loses {data.tokens_lost} tokens. {longer} {other}."
    )


def scale_advice(run: PlannedRun) -> str | None:
    (low, high), lora = SCALES, run.train.lora
    if low <= run.scale <= high:
        return None
    name = "alpha/sqrt(rank)" if lora.rslora else "alpha/rank"
    rank = f"sqrt({lora.rank})" if lora.rslora else lora.rank
    usual_alpha = USUAL_SCALE * (lora.rank**0.5 if lora.rslora else lora.rank)
    ratio = run.scale / USUAL_SCALE
    times = {0.25: "a quarter of", 0.5: "half"}.get(ratio, f"{ratio:.2g} times")
    return (
        f"{name} is {lora.alpha:g}/{rank} = {run.scale:.2g}: the update is scaled to {times} the usual "
        f"{USUAL_SCALE:g}. Set train.lora.alpha={usual_alpha:.0f}, or adjust the learning rate to this scale."
    )


def learning_rate_advice(run: PlannedRun) -> str | None:
    (low, high), rate = RATES, run.train.learning_rate
    if low <= rate <= high:
        return None
    side = "below" if rate < low else "above"
    return (
        f"a learning rate of {rate:g} is {side} the usual range for LoRA ({low:g} to {high:g}). "
        f"Set train.learning_rate=2e-4 unless a sweep found a better one."
    )


def few_steps_advice(run: PlannedRun, data: TrainingData) -> str | None:
    if run.steps >= STEPS:
        return None
    return (
        f"only {run.steps} optimizer steps: schedule and optimizer have no time to settle. Lower "
        f"train.accumulation or train.micro_batch ({run.packs_per_step} packs per step now), or train longer."
    )


def epochs_advice(run: PlannedRun, data: TrainingData) -> str | None:
    if run.epochs <= MANY_EPOCHS or data.rows >= FEW_ROWS:
        return None
    return (
        f"{run.epochs:.3g} passes over {data.rows} rows: after the second, a model like this mostly memorises "
        "them. Set train.epochs=2 or less, or add rows."
    )


def batch_advice(run: PlannedRun, data: TrainingData) -> str | None:
    packs = len(data.pack_tokens)
    if run.packs_per_step <= packs:
        return None
    return (
        f"an optimizer step takes {run.packs_per_step} packs, but there are only {packs}: it sees the same "
        "rows more than once. Lower train.micro_batch or train.accumulation."
    )


def packing_advice(run: PlannedRun, data: TrainingData) -> str | None:
    full = utilisation(data, run.max_length)
    if full >= FULL:
        return None
    return (
        f"packs are {full:.0%} full: rows are too long to share one of {run.max_length} tokens. That "
        f"costs steps, not time (packs are not padded); pack.max_length={2 * run.max_length} would fill them."
    )


def memory_advice(run: PlannedRun) -> str | None:
    machine, room = run.machine, HEADROOM * run.machine.memory
    if run.needed <= room:
        return None
    shortage = (
        f"training takes about {run.needed / GIB:.1f} GiB, but only {machine.memory / GIB:.1f} GiB of "
        f"{machine.memory_name} are free."
    )
    if not run.train.gradient_checkpointing and run.checkpointed <= room:
        return (
            f"{shortage} The activations do not fit. Set train.gradient_checkpointing=true, which lowers it "
            f"to {run.checkpointed / GIB:.1f} GiB but takes about 1.5 times as long."
        )
    return (
        f"{shortage} Lower train.micro_batch (raise train.accumulation) or pack.max_length, or take a "
        "smaller base."
    )


def later_memory_advice(run: PlannedRun) -> str | None:
    settings = {GATE: "merge.parity_tokens", EVALUATE: "evaluate.batch_size or evaluate.memory_gib"}
    short = {name: size for name, size in run.later.items() if size > HEADROOM * run.machine.memory}
    if not short:
        return None
    takes = " and ".join(f"{name} about {size / GIB:.1f} GiB" for name, size in short.items())
    return (
        f"after the training, {takes} will not fit into the {run.machine.memory / GIB:.1f} GiB of "
        f"{run.machine.memory_name} that are free, of which weights in 16 bits take the most. Lower "
        f"{' and '.join(settings[name] for name in short)}, or take a smaller base."
    )


def checkpointing_advice(run: PlannedRun) -> str | None:
    if not run.train.gradient_checkpointing or run.plain > HEADROOM * run.machine.memory:
        return None
    return (
        "gradient checkpointing is on but not needed: without it training takes about "
        f"{run.plain / GIB:.1f} GiB of {run.machine.memory / GIB:.1f}, and a third less time. Set "
        "train.gradient_checkpointing=false."
    )


def bfloat16_advice(run: PlannedRun) -> str | None:
    if run.train.dtype != "bfloat16" or run.machine.bf16:
        return None
    return "this device has no bfloat16 products and emulates them slowly. Set train.dtype=float16."


def optimizer_advice(run: PlannedRun) -> str | None:
    name = run.train.optimizer
    if not name.startswith("paged") or run.machine.device == "cuda":
        return None
    return (
        f"{name} moves its state between GPU and RAM, and this machine has no GPU. "
        f"Set train.optimizer={name.removeprefix('paged_')}."
    )


def disk_advice(run: PlannedRun) -> str | None:
    written = sum(run.disk.values())
    if written <= HEADROOM * run.machine.disk:
        return None
    return (
        f"the run writes about {written / 1e9:.1f} GB, but only {run.machine.disk / 1e9:.1f} GB are free on "
        "this disk. Free some, or move .cache and .dvc/cache to a larger one."
    )


def duration_advice(run: PlannedRun, data: TrainingData) -> str | None:
    days = run.seconds / 86400
    if days <= 1:
        return None
    return (
        f"on this machine training takes about {days:.1f} days. Use a GPU or a smaller base, or set "
        "train.max_tokens."
    )


RUN_ADVICE: tuple[Callable[[PlannedRun], str | None], ...] = (
    scale_advice,
    learning_rate_advice,
    memory_advice,
    later_memory_advice,
    checkpointing_advice,
    disk_advice,
    bfloat16_advice,
    optimizer_advice,
)
DATA_ADVICE: tuple[Callable[[PlannedRun, TrainingData], str | None], ...] = (
    warmup_advice,
    validation_advice,
    overlong_advice,
    few_steps_advice,
    epochs_advice,
    batch_advice,
    packing_advice,
    duration_advice,
)
