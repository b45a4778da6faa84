"""Training on a GPU: paged optimizers, resumed runs, recomputed activations, float16, the same bytes or not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.common.core.files import sha256_folder
from stages.train import trainer
from stages.train.__main__ import ADAPTER, main
from stages.train.optimizers import make_optimizer
from tests.helpers.train_workplace import TRAIN, train_settings

pytestmark = pytest.mark.gpu

STEPS = 6
WEIGHTS = ADAPTER / "adapter_model.safetensors"
DTYPE = (
    "bfloat16" if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0) else "float16"
)


def trained(**changes: Any) -> dict[str, torch.Tensor]:
    assert main(train_settings(**{"dtype": DTYPE, "max_steps": STEPS, **changes}))
    return load_file(WEIGHTS)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], share: float = 0.02) -> None:
    """Both within a share of the largest weight: kernels on a GPU may add in another order."""
    assert first.keys() == second.keys()
    largest = max(float(tensor.abs().max()) for tensor in first.values())
    for name in first:
        assert (first[name] - second[name]).abs().max() <= share * largest, name


def interrupted(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Train up to step 4; the last checkpoint is of step 3."""
    original = trainer.PackTrainer.end_step

    def interrupt(self: Any) -> None:
        original(self)
        if self.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer.PackTrainer, "end_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(**changes)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "lion"])
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(
    place: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(optimizer=optimizer)
    interrupted(monkeypatch, optimizer=optimizer)
    assert_same(whole, trained(optimizer=optimizer))


@pytest.mark.parametrize("optimizer", ["paged_adamw", "paged_adamw_8bit"])
def test_a_paged_optimizer_pages_after_a_resume_and_computes_the_same(optimizer: str) -> None:
    def make() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(torch.ones(512, 512, device="cuda"))  # from 100,000 values on states are paged
        return weight, make_optimizer(replace(TRAIN, optimizer=optimizer), [{"params": [weight]}])

    def step(weight: nn.Parameter, by: torch.optim.Optimizer, number: int) -> None:
        weight.grad = torch.randn(512, 512, generator=torch.Generator().manual_seed(number)).cuda()
        by.step()

    whole, first = make()
    for number in range(3):
        step(whole, first, number)
    saved, at = first.state_dict(), whole.detach().clone()
    step(whole, first, 3)
    resumed, second = make()
    resumed.data.copy_(at)
    second.load_state_dict(saved)
    step(resumed, second, 3)
    torch.testing.assert_close(resumed.detach(), whole.detach(), rtol=1e-5, atol=1e-6)
    large = [t for t in second.state[resumed].values() if isinstance(t, torch.Tensor) and t.numel() > 100_000]
    assert len(large) == 2
    assert all(getattr(state, "is_paged", False) for state in large)


def test_recomputed_activations_change_nothing(place: Path) -> None:
    assert_same(trained(dropout=0.1), trained(dropout=0.1, gradient_checkpointing=True))


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
def test_a_training_lowers_the_loss_from_each_quantization(place: Path, quantization: str) -> None:
    metrics = main(train_settings(dtype=DTYPE, quantization=quantization, epochs=4.0))
    assert metrics
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]
    assert metrics["gpu"] == torch.cuda.get_device_name()
    assert metrics["times"]["peak_device_memory_mib"] > 0


def test_loftq_begins_with_what_quantization_loses(place: Path) -> None:
    plain = main(train_settings(dtype="float32", quantization="int8", max_steps=1))
    loftq = main(train_settings(dtype="float32", quantization="int8", init="loftq", max_steps=1))
    assert plain
    assert loftq
    assert plain["base_loss"] is not None
    gap = [abs(one["validation_loss_first"] - one["base_loss"]) for one in (plain, loftq)]
    assert gap[1] <= gap[0] + 1e-4
    initial = load_file(ADAPTER / "initial.safetensors")
    assert all(tensor.abs().max() > 0 for tensor in initial.values())


def test_float16_follows_float32(place: Path) -> None:
    assert_same(trained(dtype="float32"), trained(dtype="float16"), share=0.1)


def test_two_runs_agree_and_whether_to_the_byte_is_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, bytes_of_first = trained(), sha256_folder(ADAPTER)
    assert_same(first, trained())
    same = "the same bytes" if sha256_folder(ADAPTER) == bytes_of_first else "other bytes"
    with capsys.disabled():
        print(f"\ntwo trainings on {torch.cuda.get_device_name()}: {same}")
