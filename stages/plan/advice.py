"""Warnings before anything is spent: figures in, sentences out, each with its number and what to do."""

import math
from collections.abc import Callable

from stages.plan.quantities import CHANGE, DIFFERENCE, Facts

WARMUP = 0.10  # share of the steps; Hugging Face's and QLoRA's recipes take 0.03
LONG_WARMUP = 0.25
SCALES = (1.0, 4.0)  # of alpha / rank; LoRA's and QLoRA's recipes take 2 or so
USUAL_SCALE = 2.0
RATES = (5e-5, 1e-3)  # QLoRA (arXiv:2305.14314) takes 2e-4 up to 13B and 1e-4 above
STEPS = 50
MANY_EPOCHS, FEW_ROWS = 2.0, 2000
FULL = 0.85  # utilisation of packs
HEADROOM = 0.9  # of memory and disk that a plan may take
DAY = 24.0  # hours
FRACTIONS = {0.1: "a tenth", 0.2: "a fifth", 1 / 3: "a third", 0.5: "half", 2 / 3: "two thirds", 1.0: "all"}


def warnings(facts: Facts) -> dict[str, str]:
    """Every warning that these figures give, by its name, in the order of `CHECKS`."""
    found = {check.__name__: check(facts) for check in CHECKS}
    return {name: text for name, text in found.items() if text}


def warmup(f: Facts) -> str | None:
    if f.warmup_share <= WARMUP:
        return None
    fraction = FRACTIONS[min(FRACTIONS, key=lambda x: abs(x - f.warmup_share))]
    three = max(1, round(0.03 * f.steps))
    stop = (
        " Most of the training happens below the learning rate that was asked for."
        if f.warmup_share > LONG_WARMUP
        else ""
    )
    return (
        f"{f.warmup_steps} warmup steps are {f.warmup_share:.0%} of the {f.steps} steps, about {fraction} of the run.{stop} "
        f"Set train.warmup_steps={three}, which is 3%."
    )


def validation(f: Facts) -> str | None:
    if not f.validation_rows:
        return (
            "no validation rows: nothing says when the model stops learning. Set pack.validation_share=0.05."
        )
    if 2 * f.change_error <= DIFFERENCE:
        return None
    enough = math.ceil((2 * CHANGE / DIFFERENCE) ** 2)
    stops = (
        "early stopping or the choice of a checkpoint"
        if f.early_stopping
        else "early stopping or a choice of runs"
    )
    return (
        f"{f.validation_rows} validation rows cannot support {stops}: a change of {DIFFERENCE:g} nats between two evaluations "
        f"has a standard error of {f.change_error:.3f}, and the loss itself one of {f.validation_error:.2f}. Hold out {enough} "
        f"rows or more (pack.validation_share), or stop by a budget."
    )


def overlong(f: Facts) -> str | None:
    if not f.overlong_rows:
        return None
    what = {"truncate": "cut", "split": "split"}.get(f.overlong, "lost")
    roomy = f.context > f.max_length or not f.context
    longer = "Raise pack.max_length, or set" if roomy else "Set"
    other = (
        "pack.overlong=truncate or split"
        if f.overlong in ("drop", "fail")
        else "pack.overlong=drop to leave them out"
    )
    return (
        f"{f.overlong_rows} of {f.rows_in} rows over {f.max_length} tokens (prompt format included) are {what}, "
        f"{f.tokens_lost} tokens with them. {longer} {other}."
    )


def scale(f: Facts) -> str | None:
    low, high = SCALES
    if low <= f.scale <= high:
        return None
    name = "alpha/sqrt(rank)" if f.rslora else "alpha/rank"
    usual = USUAL_SCALE * (f.rank**0.5 if f.rslora else f.rank)
    quarter = {0.25: "a quarter of", 0.5: "half"}.get(
        f.scale / USUAL_SCALE, f"{f.scale / USUAL_SCALE:.2g} times"
    )
    return (
        f"{name} is {f.alpha:g}/{f.rank if not f.rslora else f'sqrt({f.rank})'} = {f.scale:.2g}: the update is scaled to {quarter} "
        f"the usual {USUAL_SCALE:g}. Set train.lora.alpha={usual:.0f}, or the learning rate that this scale wants."
    )


def learning_rate(f: Facts) -> str | None:
    low, high = RATES
    if low <= f.learning_rate <= high:
        return None
    side = "below" if f.learning_rate < low else "above"
    return (
        f"a learning rate of {f.learning_rate:g} is {side} what LoRA is trained with ({low:g} to {high:g}). "
        f"Set train.learning_rate=2e-4 unless a sweep has said otherwise."
    )


def few_steps(f: Facts) -> str | None:
    if f.steps >= STEPS:
        return None
    return (
        f"only {f.steps} optimizer steps: schedule and optimizer have no time to settle. Lower train.accumulation or "
        f"train.micro_batch ({f.packs_per_step} packs a step now), or train longer."
    )


def epochs(f: Facts) -> str | None:
    if f.epochs <= MANY_EPOCHS or f.rows >= FEW_ROWS:
        return None
    return (
        f"{f.epochs:.3g} passes over {f.rows} rows: after the second, a model of this kind mostly learns them by heart. "
        f"Set train.epochs=2 or less, or add rows."
    )


def batch(f: Facts) -> str | None:
    if f.packs_per_step <= f.packs:
        return None
    return (
        f"an optimizer step takes {f.packs_per_step} packs and there are {f.packs}: it sees the same rows more than once. "
        f"Lower train.micro_batch or train.accumulation."
    )


def memory(f: Facts) -> str | None:
    if f.needed <= HEADROOM * f.memory:
        return None
    gib = 2**30
    told = f"training takes about {f.needed / gib:.1f} GiB and there are {f.memory / gib:.1f} GiB of {f.memory_name}."
    if not f.gradient_checkpointing and f.needed_checkpointed <= HEADROOM * f.memory:
        return (
            f"{told} The activations do not fit. Set train.gradient_checkpointing=true, which brings it to "
            f"{f.needed_checkpointed / gib:.1f} GiB, for about half as much time again."
        )
    return (
        f"{told} Lower train.micro_batch (raise train.accumulation), pack.max_length, or take a smaller base."
    )


def checkpointing(f: Facts) -> str | None:
    if not f.gradient_checkpointing or f.needed_plain > HEADROOM * f.memory:
        return None
    return (
        f"gradient checkpointing is on and not needed: without it training takes about {f.needed_plain / 2**30:.1f} GiB of "
        f"{f.memory / 2**30:.1f}, and a third less time. Set train.gradient_checkpointing=false."
    )


def packing(f: Facts) -> str | None:
    if f.utilisation >= FULL:
        return None
    return (
        f"packs are {f.utilisation:.0%} full: rows are too long to share one of {f.max_length} tokens. That costs steps, not "
        f"time (packs are not padded); pack.max_length={2 * f.max_length} would fill them."
    )


def bfloat16(f: Facts) -> str | None:
    if f.dtype != "bfloat16" or f.bf16:
        return None
    return "this device has no bfloat16 products: they are emulated, slowly. Set train.dtype=float32."


def attention(f: Facts) -> str | None:
    if not f.attention.startswith("flash") or f.device == "cuda":
        return None
    return "FlashAttention needs a CUDA device, and there is none here. Set train.attention=auto."


def optimizer(f: Facts) -> str | None:
    if not f.optimizer.startswith("paged") or f.device == "cuda":
        return None
    plain = f.optimizer.removeprefix("paged_")
    return f"{f.optimizer} moves its state between GPU and RAM, and there is no GPU here. Set train.optimizer={plain}."


def disk(f: Facts) -> str | None:
    if f.disk_needed <= HEADROOM * f.disk:
        return None
    return (
        f"the run writes about {f.disk_needed / 1e9:.1f} GB and {f.disk / 1e9:.1f} GB are free on this disk. Free some, or "
        f"move .cache and .dvc/cache to a larger one."
    )


def duration(f: Facts) -> str | None:
    if f.hours <= DAY:
        return None
    return f"on this machine training takes about {f.hours / 24:.1f} days. Use a GPU, a smaller base, or set train.max_tokens."


Check = Callable[[Facts], str | None]
CHECKS: tuple[Check, ...] = (
    warmup,
    validation,
    overlong,
    scale,
    learning_rate,
    few_steps,
    epochs,
    batch,
    packing,
    memory,
    checkpointing,
    disk,
    duration,
    bfloat16,
    attention,
    optimizer,
)
