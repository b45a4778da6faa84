"""Refuse what pack, train and merge would refuse later, before anything is spent: the same functions, without weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def refuse_training(
    sections: Mapping[str, Any],
    folder: Path,
    model: Any,
    layers: Mapping[str, tuple[int, int]],
    steps: int | None,
    validation_rows: int | None,
) -> None:
    """Raise the UserError with which a stage would end.

    Args:
        sections: the composed configuration, by section.
        folder: holds the base's config.json.
        model: of it, on the meta device.
        layers: that get an adapter.
        steps, validation_rows: None where the data is not known.
    """
    from stages.common.model.checks import refuse_attention, refuse_dtype
    from stages.common.model.mergeable import linear_weights, refuse_unmergeable
    from stages.common.model.quantize import compute_device
    from stages.common.model.trial import must_read_alone
    from stages.pack.model_limits import check_context
    from stages.train.fsdp import layer_modules
    from stages.train.initialise import refuse_rank
    from stages.train.launch import count_ranks
    from stages.train.schedule import refuse_impossible
    from stages.train.warm_start import refuse_start

    train = sections["train"]
    check_context(folder, sections["pack"].max_length)
    refuse_impossible(
        train,
        train.max_steps or math.inf if steps is None else steps,
        1 if validation_rows is None else validation_rows,
    )
    if train.launcher == "accelerate":
        count_ranks(train)
        if train.accelerate == "fsdp":
            layer_modules(model, model._no_split_modules or ())
    refuse_dtype(train.dtype)
    refuse_start(train)
    refuse_attention(folder, model.config, train.attention, train.dtype)
    if any(folder.glob("*.safetensors")):
        refuse_unmergeable(folder)
    else:
        linear_weights(folder)
    must_read_alone(folder, train.attention, compute_device())
    for name, (inputs, outputs) in layers.items():
        refuse_rank(name, outputs, inputs, train.lora)
