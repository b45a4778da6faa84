"""Warnings before anything is spent: each names its figure and says what to do."""

import math
from collections.abc import Callable

from stages.plan.quantities import CHANGE, DIFFERENCE, RunFacts

WARMUP = 0.10  # share of the steps; Hugging Face's and QLoRA's recipes take 0.03
LONG_WARMUP = 0.25
SCALES = (1.0, 4.0)  # of alpha / rank; LoRA's and QLoRA's recipes take about 2
USUAL_SCALE = 2.0
RATES = (5e-5, 1e-3)  # QLoRA (arXiv:2305.14314) takes 2e-4 up to 13B and 1e-4 above
STEPS = 50
MANY_EPOCHS, FEW_ROWS = 2.0, 2000
FULL = 0.85  # utilisation of packs
HEADROOM = 0.9  # share of memory and disk that a plan may take
DAY = 24.0  # hours
FRACTIONS = {0.1: "a tenth", 0.2: "a fifth", 1 / 3: "a third", 0.5: "half", 2 / 3: "two thirds", 1.0: "all"}


def find_warnings(facts: RunFacts) -> dict[str, str]:
    """Return every warning that applies, by its name, in the order of `ALL_ADVICE`."""
    found = {advice.__name__.removesuffix("_advice"): advice(facts) for advice in ALL_ADVICE}
    return {name: text for name, text in found.items() if text}


def warmup_advice(f: RunFacts) -> str | None:
    if f.warmup_share <= WARMUP:
        return None
    fraction = FRACTIONS[min(FRACTIONS, key=lambda x: abs(x - f.warmup_share))]
    three_percent = max(1, round(0.03 * f.steps))
    too_slow = (
        " Most of the training runs below the configured learning rate."
        if f.warmup_share > LONG_WARMUP
        else ""
    )
    return (
        f"{f.warmup_steps} warmup steps are {f.warmup_share:.0%} of the {f.steps} steps, about {fraction} of "
        f"the run.{too_slow} Set train.warmup_steps={three_percent}, which is 3%."
    )


def validation_advice(f: RunFacts) -> str | None:
    if not f.validation_rows and f.validation_share:
        return (
            f"no validation rows, although pack.validation_share={f.validation_share:g}: too few rows, or most "
            "are near duplicates of one another, which stay together. reports/clean.json counts these groups. "
            "Set clean.near.threshold higher, or add sources."
        )
    if not f.validation_rows:
        return (
            "no validation rows: nothing shows when the model stops learning. Set pack.validation_share=0.05."
        )
    if 2 * f.change_error <= DIFFERENCE:
        return None
    enough = math.ceil((2 * CHANGE / DIFFERENCE) ** 2)
    use = "the choice of a checkpoint" if f.early_stopping else "a choice of runs"
    return (
        f"{f.validation_rows} validation rows cannot support early stopping or {use}: a change of "
        f"{DIFFERENCE:g} nats between two evaluations has a standard error of {f.change_error:.3f}, and the "
        f"loss itself one of {f.validation_error:.2f}. Hold out {enough} rows or more "
        "(pack.validation_share), or stop by a budget."
    )


def overlong_advice(f: RunFacts) -> str | None:
    if not f.overlong_rows:
        return None
    treatment = {"truncate": "cut", "split": "split"}.get(f.overlong, "lost")
    can_be_longer = f.context > f.max_length or not f.context
    longer = "Raise pack.max_length, or set" if can_be_longer else "Set"
    other = (
        "pack.overlong=truncate or split"
        if f.overlong in ("drop", "fail")
        else "pack.overlong=drop to leave them out"
    )
    return (
        f"{f.overlong_rows} of {f.rows_in} rows over {f.max_length} tokens (prompt format included) are "
        f"{treatment}, which loses {f.tokens_lost} tokens. {longer} {other}."
    )


def scale_advice(f: RunFacts) -> str | None:
    low, high = SCALES
    if low <= f.scale <= high:
        return None
    name = "alpha/sqrt(rank)" if f.rslora else "alpha/rank"
    rank = f"sqrt({f.rank})" if f.rslora else f.rank
    usual_alpha = USUAL_SCALE * (f.rank**0.5 if f.rslora else f.rank)
    times = {0.25: "a quarter of", 0.5: "half"}.get(
        f.scale / USUAL_SCALE, f"{f.scale / USUAL_SCALE:.2g} times"
    )
    return (
        f"{name} is {f.alpha:g}/{rank} = {f.scale:.2g}: the update is scaled to {times} the usual "
        f"{USUAL_SCALE:g}. Set train.lora.alpha={usual_alpha:.0f}, or adjust the learning rate to this scale."
    )


def learning_rate_advice(f: RunFacts) -> str | None:
    low, high = RATES
    if low <= f.learning_rate <= high:
        return None
    side = "below" if f.learning_rate < low else "above"
    return (
        f"a learning rate of {f.learning_rate:g} is {side} the usual range for LoRA ({low:g} to {high:g}). "
        f"Set train.learning_rate=2e-4 unless a sweep found a better one."
    )


def few_steps_advice(f: RunFacts) -> str | None:
    if f.steps >= STEPS:
        return None
    return (
        f"only {f.steps} optimizer steps: schedule and optimizer have no time to settle. Lower "
        f"train.accumulation or train.micro_batch ({f.packs_per_step} packs per step now), or train longer."
    )


def epochs_advice(f: RunFacts) -> str | None:
    if f.epochs <= MANY_EPOCHS or f.rows >= FEW_ROWS:
        return None
    return (
        f"{f.epochs:.3g} passes over {f.rows} rows: after the second, a model like this mostly memorises "
        "them. Set train.epochs=2 or less, or add rows."
    )


def batch_advice(f: RunFacts) -> str | None:
    if f.packs_per_step <= f.packs:
        return None
    return (
        f"an optimizer step takes {f.packs_per_step} packs, but there are only {f.packs}: it sees the same "
        "rows more than once. Lower train.micro_batch or train.accumulation."
    )


def memory_advice(f: RunFacts) -> str | None:
    if f.needed <= HEADROOM * f.memory:
        return None
    gib = 2**30
    shortage = (
        f"training takes about {f.needed / gib:.1f} GiB, but there are only {f.memory / gib:.1f} GiB of "
        f"{f.memory_name}."
    )
    if not f.gradient_checkpointing and f.needed_checkpointed <= HEADROOM * f.memory:
        return (
            f"{shortage} The activations do not fit. Set train.gradient_checkpointing=true, which lowers it "
            f"to {f.needed_checkpointed / gib:.1f} GiB but takes about 1.5 times as long."
        )
    return (
        f"{shortage} Lower train.micro_batch (raise train.accumulation) or pack.max_length, or take a "
        "smaller base."
    )


def checkpointing_advice(f: RunFacts) -> str | None:
    if not f.gradient_checkpointing or f.needed_plain > HEADROOM * f.memory:
        return None
    return (
        "gradient checkpointing is on but not needed: without it training takes about "
        f"{f.needed_plain / 2**30:.1f} GiB of {f.memory / 2**30:.1f}, and a third less time. Set "
        "train.gradient_checkpointing=false."
    )


def packing_advice(f: RunFacts) -> str | None:
    if f.utilisation >= FULL:
        return None
    return (
        f"packs are {f.utilisation:.0%} full: rows are too long to share one of {f.max_length} tokens. That "
        f"costs steps, not time (packs are not padded); pack.max_length={2 * f.max_length} would fill them."
    )


def bfloat16_advice(f: RunFacts) -> str | None:
    if f.dtype != "bfloat16" or f.bf16:
        return None
    return "this device has no bfloat16 products and emulates them slowly. Set train.dtype=float32."


def attention_advice(f: RunFacts) -> str | None:
    if not f.attention.startswith("flash") or f.device == "cuda":
        return None
    return "FlashAttention needs a CUDA device, and this machine has none. Set train.attention=auto."


def optimizer_advice(f: RunFacts) -> str | None:
    if not f.optimizer.startswith("paged") or f.device == "cuda":
        return None
    plain = f.optimizer.removeprefix("paged_")
    return (
        f"{f.optimizer} moves its state between GPU and RAM, and this machine has no GPU. "
        f"Set train.optimizer={plain}."
    )


def disk_advice(f: RunFacts) -> str | None:
    if f.disk_needed <= HEADROOM * f.disk:
        return None
    return (
        f"the run writes about {f.disk_needed / 1e9:.1f} GB, but only {f.disk / 1e9:.1f} GB are free on this "
        "disk. Free some, or move .cache and .dvc/cache to a larger one."
    )


def duration_advice(f: RunFacts) -> str | None:
    if f.hours <= DAY:
        return None
    return (
        f"on this machine training takes about {f.hours / 24:.1f} days. Use a GPU or a smaller base, or set "
        "train.max_tokens."
    )


Advice = Callable[[RunFacts], str | None]
ALL_ADVICE: tuple[Advice, ...] = (
    warmup_advice,
    validation_advice,
    overlong_advice,
    scale_advice,
    learning_rate_advice,
    few_steps_advice,
    epochs_advice,
    batch_advice,
    packing_advice,
    memory_advice,
    checkpointing_advice,
    disk_advice,
    duration_advice,
    bfloat16_advice,
    attention_advice,
    optimizer_advice,
)
