"""The validation loss of the base as stored: what quantization costs is the difference to the loss before step 1."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.train.footprint import is_shortage

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings


def stored_base_loss(folder: Path, train: "TrainSettings", rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean loss of the base, not quantized, over the validation rows; None if it does not fit.

    It is loaded and let go before the training loads it quantized, so the training's bytes do not depend on it.

    Args:
        rows: from `flatten_packs`.
    """
    import torch
    from accelerate.utils import get_max_memory

    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    loss, fits = None, weights < get_max_memory()[place]
    if fits:
        try:
            loss = loss_unquantized(folder, train, rows)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            fits = False
    if not fits:
        print(f"train: base_loss is left out: {folder} does not fit into the memory without quantization", flush=True)  # fmt: skip
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return loss


def loss_unquantized(folder: Path, train: "TrainSettings", rows: Sequence[dict[str, Any]]) -> float | None:
    import torch

    from stages.common.model.fused import fuse_norms
    from stages.common.model.load import load_frozen_model
    from stages.common.model.packed_model import PackedModel, mean_loss
    from stages.common.model.quantize import Quantization

    base = load_frozen_model(folder, Quantization("none", False, train.dtype), train.attention)
    fuse_norms(base)
    with torch.no_grad():
        return mean_loss(PackedModel(base, train.attention), rows)
