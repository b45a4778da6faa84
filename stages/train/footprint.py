"""What a training holds in memory: now, at the peak, by kind when it runs out; and the shares of weights by treatment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.errors import UserError
from stages.common.model.shapes import ModelShapes
from stages.train.checkpoints import resume_message

if TYPE_CHECKING:
    from torch import nn

    from stages.train.settings import TrainSettings

GIB = 2**30


def memory_mib() -> float | None:
    """Return the memory this process holds now, in MiB: on the CUDA device, else resident; None: unknown."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.memory_reserved() / 2**20)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return round(next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024)
    except OSError:
        return None


def peak_device_mib() -> float | None:
    """Return the most memory that PyTorch has held on the CUDA device, in MiB; None without one."""
    import torch

    return round(torch.cuda.max_memory_reserved() / 2**20) if torch.cuda.is_available() else None


def weight_shares(model: "nn.Module", shapes: ModelShapes) -> dict[str, float]:
    """Return which share of the base's weights is quantized, and which is in layers with an adapter.

    Args:
        model: with its adapter.
        shapes: of the base.
    """
    from torch import nn

    from stages.common.model.quantize import is_quantized
    from stages.common.model.trained import lora_layers

    quantized = [m for m in model.modules() if isinstance(m, nn.Linear) and is_quantized(m.weight)]
    parts: dict[str, list[Any]] = {
        "quantized_share": quantized,
        "adapted_share": [layer for _, layer in lora_layers(model)],
    }
    total = shapes.linear_weights + shapes.other
    return {
        name: round(sum(m.in_features * m.out_features for m in layers) / total, 4)
        for name, layers in parts.items()
    }


@contextmanager
def explain_shortage(describe: Callable[[], str]) -> Iterator[None]:
    """Raise UserError with this description where the memory of a GPU, or of the machine, runs out in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise UserError(describe()) from error


def is_shortage(error: Exception) -> bool:
    """Whether an error means that memory ran out: PyTorch's own, and what bitsandbytes and the host's allocator say."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def describe_loading(train: "TrainSettings") -> str:
    """Say that the base does not fit, and what to change."""
    return f"the memory ran out while the base was loaded. {advise(train, loading=True)}"


def describe_step(
    model: "nn.Module", optimizer: Any, step: int, scratch: Path, train: "TrainSettings"
) -> str:
    """Say what was held when a step ran out of memory, which settings lower it, and where the next run resumes."""
    import torch

    base, trained = (
        sum({id(p): p.numel() * p.element_size() for p in parameters}.values())
        for parameters in (
            [p for p in model.parameters() if p.requires_grad is kind] for kind in (False, True)
        )
    )
    state = sum(
        value.numel() * value.element_size()
        for values in (optimizer.state.values() if optimizer else ())
        for value in values.values()
        if isinstance(value, torch.Tensor)
    )
    held = [f"base weights {base / GIB:.2f} GiB", f"adapter and gradients {2 * trained / GIB:.2f} GiB"]
    held.append(f"optimizer state {state / GIB:.2f} GiB")
    where = "the machine's memory"
    if torch.cuda.is_available():
        rest = torch.cuda.max_memory_allocated() - base - 2 * trained - state
        held.append(f"activations, logits and working space {max(0, rest) / GIB:.2f} GiB")
        free, total = torch.cuda.mem_get_info()
        where = f"the GPU's memory ({total / GIB:.1f} GiB, {free / GIB:.1f} GiB of it free now)"
    return (
        f"{where} ran out after step {step}. Held: {', '.join(held)}. {advise(train)} "
        f"{resume_message(scratch)}"
    )


def advise(train: "TrainSettings", loading: bool = False) -> str:
    """Name the two settings that lower the memory most; halves of micro batches keep a training's checkpoints."""
    micro, accumulation = train.micro_batch, train.accumulation
    half = micro // 2 if micro % 2 == 0 else 1
    found = []
    if micro > 1 and not loading:
        found.append(
            f"train.micro_batch={half} train.accumulation={accumulation * micro // half} (the same steps)"
        )
    if not train.gradient_checkpointing and not loading:
        found.append("train.gradient_checkpointing=true (half as long again)")
    if train.quantization not in ("nf4", "fp4"):
        found.append("train.quantization=nf4")
    if train.optimizer == "adamw" and not loading:
        found.append("train.optimizer=paged_adamw_8bit")
    if loading:
        found.append("train.launcher=accelerate train.accelerate=fsdp, over several GPUs")
    found += ["a smaller base", "pack.max_length lower"]
    return f"Set {found[0]}, or {found[1]}."
