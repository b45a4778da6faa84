"""Packs, a model with an adapter and a comparison of gradients, for tests of what training computes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stages.common.model.load import load_frozen_model
from stages.common.model.packs import IGNORED
from stages.common.model.quantize import Quantization
from stages.train.lora_adapter import add_adapter
from stages.train.settings import Lora

LENGTHS = [5, 1, 17, 9, 40]


def adapted_model(folder: Path) -> Any:
    """Load the model of a folder in float32 and give it an adapter that is not zero."""
    model = load_frozen_model(folder, Quantization("none", True, "float32"))
    adapted = add_adapter(model, Lora(rank=4, alpha=8), seed=0)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def pack(lengths: list[int], seed: int = 0, vocabulary: int = 500) -> dict[str, list[int]]:
    """Make a pack of random documents of these lengths, each with a masked prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (sum(lengths),), generator=generator).tolist()
    labels, at = list(ids), 0
    for length in lengths:
        masked = 1 + (seed + length) % max(1, length // 2)  # prompts of different lengths
        labels[at : at + masked] = [IGNORED] * min(masked, length)
        at += length
    return {"input_ids": ids, "labels": labels, "lengths": lengths}


def solo_packs(whole: dict[str, list[int]]) -> Iterator[dict[str, list[int]]]:
    """Yield a pack for each document."""
    at = 0
    for length in whole["lengths"]:
        yield {
            **{key: whole[key][at : at + length] for key in ("input_ids", "labels")},
            "lengths": [length],
        }
        at += length


def gradients(model: Any) -> list[torch.Tensor]:
    """Return the gradients of the trained parameters, and clear them."""
    copies = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    return copies


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    assert len(first) == len(second) > 0
    assert any(t.abs().max() > 1e-3 for t in first), "all gradients are about zero: nothing is compared"
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
