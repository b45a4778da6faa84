"""What a GGUF file calls the tensors of a model, and how llama.cpp stores them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.errors import UserError
from stages.common.core.files import read_json

# transformers' model_type, and gguf's name of the architecture
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


@dataclass(frozen=True)
class Architecture:
    """A model's configuration as far as GGUF has it."""

    config: dict[str, Any]
    name: str

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def head_size(self) -> int:
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def rope_base(self) -> float:
        rope = self.config.get("rope_parameters") or {}
        return float(self.config.get("rope_theta") or rope.get("rope_theta") or 10000.0)

    def gguf_name(self) -> Callable[[str], str]:
        """Return a function from a tensor's name in safetensors to its name in GGUF."""
        import gguf

        kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.name)
        names = gguf.get_tensor_name_map(kind, self.layers)

        def find(name: str) -> str:
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise UserError(f"models/merged: GGUF's {self.name} has no tensor for {name}")
            return found

        return find

    def rows_as_stored(self, name: str, weight: np.ndarray, back: bool = False) -> np.ndarray:
        """Return a weight as llama.cpp stores it (or, `back`, as transformers does).

        llama.cpp rotates neighbouring pairs of a head's rows, transformers its two halves: Llama's query and key
        rows are interleaved. The other architectures are rotated by halves there too.
        """
        is_query, is_key = ".q_proj." in name, ".k_proj." in name
        if self.name != "llama" or not (is_query or is_key):
            return weight
        heads = self.heads if is_query else self.key_heads
        half = weight.shape[0] // heads // 2
        shape = (heads, half, 2) if back else (heads, 2, half)
        return weight.reshape(*shape, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def architecture_of(model: Path) -> Architecture:
    """Return the architecture of a model's folder.

    Raises:
        UserError: no model there, or one that no GGUF is written of.
    """
    if not (model / "config.json").is_file():
        raise UserError(f"{model} holds no model. Run `dvc repro merge` to make it")
    config = read_json(model / "config.json")
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{model}: no GGUF is written of the architecture {kind}, only of {known}")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope != "default":
        raise UserError(f"{model}: no GGUF is written of rope scaled by {rope}")
    return Architecture(config, ARCHITECTURES[kind])
