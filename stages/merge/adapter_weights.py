"""Read the adapter that train wrote: the update of each weight of the base, and its scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.model.trained import ADAPTER_WEIGHTS, BASE_FILE, INITIAL_WEIGHTS, PEFT_PREFIX


@dataclass(frozen=True)
class LayerUpdate:
    """What training learned for one layer: s B A, and with DoRA a magnitude per row."""

    # (rank, in)
    a: torch.Tensor
    # (out, rank)
    b: torch.Tensor
    # s: alpha / rank, or alpha / sqrt(rank) with rsLoRA
    scale: float
    # (out,), DoRA
    magnitude: torch.Tensor | None = None
    # A0 and B0, if training did not start from a zero update
    initial: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (out, in) of the weight it belongs to."""
        return self.b.shape[0], self.a.shape[1]


def read_updates(folder: Path) -> dict[str, LayerUpdate]:
    """Return the updates in an adapter's folder, by the name of the weight in the base's files.

    Raises:
        UserError: a file is missing or cut, or lacks a tensor.
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = LoraConfig.from_pretrained(str(folder))
        trained = load_file(folder / ADAPTER_WEIGHTS)
        first = load_file(folder / INITIAL_WEIGHTS) if (folder / INITIAL_WEIGHTS).exists() else {}
        scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        updates = {}
        for layer in sorted({name.rpartition(".lora_")[0] for name in trained}):
            a, b, *initial = (
                tensors[f"{layer}.lora_{factor}.weight"]
                for tensors in (trained, first)
                if tensors
                for factor in "AB"
            )
            magnitude = trained.get(f"{layer}.lora_magnitude_vector")
            updates[f"{layer.removeprefix(PEFT_PREFIX)}.weight"] = LayerUpdate(
                a, b, scale, magnitude, (initial[0], initial[1]) if initial else None
            )
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the adapter does not load ({error}). Run `dvc repro -f -s train`."
        ) from error
    return updates


def check_base(folder: Path, files: Mapping[str, str]) -> None:
    """Raise UserError if the adapter records that it was trained on other weights than these.

    Args:
        files: sha256 of each weight file of the base.
    """
    trained_on = read_json(folder / BASE_FILE)
    for name, digest in files.items():
        if trained_on.get(name) != digest:
            raise UserError(
                f"{folder}: it was trained on another base: the sha256 of models/base/{name} is not the one "
                f"in {BASE_FILE}. Run `dvc repro train`. Nothing was written."
            )
