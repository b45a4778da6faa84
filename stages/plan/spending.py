"""Estimate time and disk of a training, from counts and from the rate of this device's products."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stages.common.core.files import read_json, read_metrics
from stages.common.model.shapes import training_flops
from stages.plan.memory import STATE_BYTES, adapter_parameters, weight_bytes

# Share of the rate of the model's own products that training reaches in useful operations, if no training on
# this machine gives it. cpu: from reports/train.json on two cores; cuda: a guess, not measured.
SHARES = {"cpu": 0.45, "cuda": 0.35}
RECOMPUTED = (
    1.5  # gradient checkpointing repeats the forward pass: half of forward and backward of frozen weights
)


def operations_per_token(
    config: Mapping[str, Any], lengths: Any, labelled_share: float, trained: int
) -> float:
    """Return the useful operations of training per token.

    Args:
        lengths: tokens of each document.
        labelled_share: share of the tokens that have labels.
        trained: values in the adapter.
    """
    tokens = int(sum(lengths))
    frozen = training_flops(config, lengths, round(labelled_share * tokens), rank=0)
    return frozen / max(1, tokens) + 6 * trained


def reached_share(
    tracked: Mapping[str, Any], rate: float, config: Mapping[str, Any], dtype: str
) -> float | None:
    """Return the share of the products' rate that the training of reports/train.json reached, or None.

    Args:
        tracked: reports/config.yaml.
        rate: operations per second of products of this model's shapes in `dtype`.
        config: config.json of the model that was trained.
    """
    if not (Path("reports/train.json").is_file() and Path("reports/pack.json").is_file()):
        return None
    train, pack = read_metrics("reports/train.json"), read_json("reports/pack.json")["train"]
    settings = tracked.get("train", {})
    if not train.get("tokens_per_second") or not pack["documents"] or settings.get("dtype") != dtype:
        return None
    lengths = [pack["tokens"] // pack["documents"]] * pack["documents"]
    trained = adapter_parameters(config, SimpleNamespace(**settings["lora"]))
    operations = operations_per_token(config, lengths, pack["labelled_share"], trained)
    passes = RECOMPUTED if settings.get("gradient_checkpointing") else 1.0
    share = train["tokens_per_second"] * operations * passes / rate
    return share if 0.05 < share <= 1 else None  # otherwise it ran on another machine


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
    config: Mapping[str, Any], train: Any, tokens: int, from_hub: bool, base_is_here: bool
) -> dict[str, int]:
    """Return the bytes that the run writes, by kind; DVC's cache links to the same files.

    A checkpoint is adapter and optimizer state; there are two while one replaces the other.
    """
    model = weight_bytes(config, "none", False, "bfloat16")
    trained = adapter_parameters(config, train.lora)
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
