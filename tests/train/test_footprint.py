"""What a training holds in memory, what is said when it runs out, and the shares of weights by treatment."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.core.errors import UserError
from stages.common.model.load import load_frozen_model
from stages.common.model.quantize import Quantization
from stages.common.model.shapes import model_shapes
from stages.train.__main__ import main
from stages.train.footprint import advise, explain_shortage, weight_shares
from stages.train.lora_adapter import add_adapter
from stages.train.settings import Lora, TrainSettings
from tests.helpers.train_workplace import train_settings, workplace


def test_a_step_without_memory_says_what_was_held_and_what_to_lower(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.common.model.packed_model import PackedModel

    monkeypatch.chdir(workplace(tmp_path, tiny_model))
    forward, calls = PackedModel.forward, [0]

    def hungry(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += self.training
        if calls[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, *arguments, **options)

    monkeypatch.setattr(PackedModel, "forward", hungry)
    with pytest.raises(UserError) as error:
        main(train_settings(max_steps=4, micro_batch=2, save_every=1))
    text = str(error.value)
    assert "memory ran out after step 2. Held: base weights 0.00 GiB, adapter and gradients 0.00 GiB" in text
    assert (
        "Set train.micro_batch=1 train.accumulation=2 (the same steps), or train.gradient_checkpointing=true"
        in text
    )
    assert "The next run resumes after step 2" in text
    monkeypatch.setattr(PackedModel, "forward", forward)
    metrics = main(train_settings(max_steps=4, accumulation=2, save_every=1, gradient_checkpointing=True))
    assert metrics is not None
    assert metrics["steps"] == 4
    assert metrics["times"]["peak_device_memory_mib"] == (
        None if not torch.cuda.is_available() else pytest.approx(1, abs=1e6)
    )


def test_other_errors_are_left_alone_and_bitsandbytes_own_words_are_known() -> None:
    with pytest.raises(RuntimeError, match="sizes differ"), explain_shortage(lambda: "short"):
        raise RuntimeError("sizes differ")
    for raised in (
        MemoryError(),
        RuntimeError("Error out of memory at line 380 in file pythonInterface.cpp"),
    ):
        with pytest.raises(UserError, match="short"), explain_shortage(lambda: "short"):
            raise raised


@pytest.mark.parametrize(
    ("changes", "loading", "expected"),
    [
        (
            {"micro_batch": 3},
            False,
            "train.micro_batch=1 train.accumulation=3 (the same steps), or train.gradient",
        ),
        (
            {"micro_batch": 1},
            False,
            "train.gradient_checkpointing=true (half as long again), or train.optimizer=paged",
        ),
        (
            {"micro_batch": 1, "gradient_checkpointing": True, "optimizer": "lion"},
            False,
            "a smaller base, or pack.max",
        ),
        ({"quantization": "none"}, True, "train.quantization=nf4, or train.launcher=accelerate"),
    ],
)
def test_advice_names_two_settings_that_are_not_set_yet(changes: Any, loading: bool, expected: str) -> None:
    assert advise(TrainSettings(**changes), loading).startswith(f"Set {expected}")


def test_shares_of_weights_quantized_and_adapted(tiny_model: Path) -> None:
    base = load_frozen_model(tiny_model, Quantization("nf4", True, "float32"))
    shapes = model_shapes(base)
    total = shapes.linear_weights + shapes.other
    adapted = add_adapter(base, Lora(rank=2, target_modules=["down_proj"]), seed=0)
    shares = weight_shares(adapted, shapes)
    assert shares["quantized_share"] == round(shapes.linear_weights / total, 4)
    assert shares["adapted_share"] == round(2 * 128 * 64 / total, 4)
