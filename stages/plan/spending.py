"""Time and disk of a training, from counts and from the rate of this device's products."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stages.common.files import read_json
from stages.common.model.shapes import training_flops
from stages.plan.memory import STATE, adapter_parameters, weight_bytes

# Useful operations over the rate of the model's own products that training reaches, where no training of this machine says
# so: what reports/train.json gives on two cores. On a GPU it is a guess, and not run.
SHARES = {"cpu": 0.45, "cuda": 0.35}
RECOMPUTED = 1.5  # gradient checkpointing does a forward pass more, half as much as forward and backward of frozen weights


def operations_a_token(config: Mapping[str, Any], lengths: Any, labelled_share: float, trained: int) -> float:
    """Useful operations of training on a token of documents like these, with that many values in the adapter."""
    tokens = int(sum(lengths))
    frozen = training_flops(config, lengths, round(labelled_share * tokens), rank=0)
    return frozen / max(1, tokens) + 6 * trained


def reached_share(
    tracked: Mapping[str, Any], rate: float, config: Mapping[str, Any], dtype: str
) -> float | None:
    """Share of the products' rate that the training of reports/train.json reached; None where it says nothing of this.

    Args:
        tracked: reports/config.yaml.
        rate: of products of this model's shapes in `dtype`, operations a second.
        config: config.json of the model that it trained.
    """
    if not (Path("reports/train.json").is_file() and Path("reports/pack.json").is_file()):
        return None
    train, pack = read_json("reports/train.json"), read_json("reports/pack.json")["train"]
    then = tracked.get("train", {})
    if not train.get("tokens_per_second") or not pack["documents"] or then.get("dtype") != dtype:
        return None
    lengths = [pack["tokens"] // pack["documents"]] * pack["documents"]
    trained = adapter_parameters(config, SimpleNamespace(**then["lora"]))
    operations = operations_a_token(config, lengths, pack["labelled_share"], trained)
    again = RECOMPUTED if then.get("gradient_checkpointing") else 1.0
    share = train["tokens_per_second"] * operations * again / rate
    return share if 0.05 < share <= 1 else None  # else it ran on another machine


def training_seconds(
    operations: float, tokens: int, evaluated: int, rate: float, share: float, checkpointing: bool
) -> float:
    """Seconds of training on `tokens`, and of losses on `evaluated` tokens, which are forward passes alone.

    Args:
        operations: useful ones a token.
        rate: of this device's products, operations a second.
        share: of it that training reaches.
    """
    again = RECOMPUTED if checkpointing else 1.0
    return operations * (tokens * again + evaluated / 2) / (rate * share)


def disk_parts(
    config: Mapping[str, Any], train: Any, tokens: int, from_hub: bool, base_is_here: bool
) -> dict[str, int]:
    """Bytes that the run writes, by what they are; DVC's cache holds links to them.

    A checkpoint is adapter and optimizer state; one is written while the last is still there.
    """
    model = weight_bytes(config, "none", False, "bfloat16")
    trained = adapter_parameters(config, train.lora)
    state = STATE[train.optimizer.removeprefix("paged_")] * trained
    download = {"base's download": model} if from_hub else {}
    base = {} if base_is_here else {"base": model, **download}
    return {
        **base,
        "packs": 8 * tokens,
        "checkpoints": 2 * (4 * trained + state) if train.save_every else 0,
        "adapter": 4 * trained,
        "merged model": model,
    }
