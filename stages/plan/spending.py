"""Estimate time and disk of a training, from counts and from the rate of this device's products."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.core.files import read_metrics
from stages.common.model.shapes import ModelShapes, training_flops
from stages.plan.device import Hardware
from stages.plan.memory import STATE_BYTES, weight_bytes

# Share of the rate of a product that training reaches in useful operations, if no training on this machine gives it.
# cpu: from reports/train.json on two cores; cuda: a guess, not measured.
SHARES = {"cpu": 0.45, "cuda": 0.35}
# gradient checkpointing repeats the forward pass: half of forward and backward of frozen weights
RECOMPUTED = 1.5
TRAIN_REPORT = Path("reports/train.json")


def operations_per_token(shapes: ModelShapes, lengths: Any, labelled_share: float, adapter: int) -> float:
    """Return the useful operations of training per token.

    Args:
        lengths: tokens of each document.
        labelled_share: share of the tokens that have labels.
        adapter: trained values.
    """
    tokens = int(sum(lengths))
    return training_flops(shapes, lengths, round(labelled_share * tokens), adapter) / max(1, tokens)


def reached_share(tracked: Mapping[str, Any], machine: Hardware, dtype: str) -> float | None:
    """Return the share of the products' rate that the training of reports/train.json reached, without recomputed work.

    None where it did not run here, on this device and in this dtype.

    Args:
        tracked: reports/config.yaml, with which it was trained.
    """
    import torch

    if not TRAIN_REPORT.is_file():
        return None
    report, settings = read_metrics(TRAIN_REPORT), tracked.get("train", {})
    cuda = machine.device == "cuda"
    gpu = report.get("gpu") == (machine.name if cuda else None)
    cpu = cuda or report.get("instruction_set") == torch.backends.cpu.get_cpu_capability()
    if not (gpu and cpu) or settings.get("dtype") != dtype:
        return None
    share = report.get("share_of_peak")
    return share and share * (RECOMPUTED if settings.get("gradient_checkpointing") else 1.0)


def training_seconds(
    operations: float, tokens: int, evaluated: int, rate: float, share: float, checkpointing: bool
) -> float:
    """Return the seconds of training on `tokens` and of evaluating `evaluated` tokens (forward passes only).

    Args:
        operations: useful operations per token.
        rate: operations per second of this device's products.
        share: share of the rate that training reaches.
    """
    passes = RECOMPUTED if checkpointing else 1.0
    return operations * (tokens * passes + evaluated / 2) / (rate * share)


def disk_parts(
    shapes: ModelShapes, train: Any, trained: int, tokens: int, from_hub: bool, base_is_here: bool
) -> dict[str, int]:
    """Return the bytes that the run writes, by kind; DVC's cache links to the same files.

    A checkpoint is adapter and optimizer state; there are two while one replaces the other.

    Args:
        trained: values of the adapter.
        tokens: of all packs, 0 where they are not known.
    """
    model = weight_bytes(shapes, "none", False, "bfloat16")
    state = STATE_BYTES[train.optimizer.removeprefix("paged_")] * trained
    download = {"base's download": model} if from_hub else {}
    base = {} if base_is_here else {"base": model, **download}
    return {
        **base,
        "packs": 8 * tokens,
        "checkpoints": 2 * (4 * trained + state) if train.save_every else 0,
        "adapter": 4 * trained,
        "merged model": model,
    }
