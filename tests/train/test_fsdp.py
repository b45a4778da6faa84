"""A base sharded over two ranks trains what a whole one trains: gradients, adapters, checkpoints, byte for byte as DDP."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder
from stages.train.checkpoints import CHECKPOINTS_FOLDER
from stages.train.fsdp import shard_model
from tests.helpers.fork_server import Forks
from tests.helpers.train_ranks import UNEVEN, adapter, assert_close, curve
from tests.helpers.train_workplace import train_settings

pytestmark = pytest.mark.slow

FOUR_BITS = {**UNEVEN, "quantization": "nf4", "accelerate": "fsdp"}


def run(forks: Forks, place: Path, ranks: int, job: str = "train", **changes: Any) -> None:
    statuses = forks.run(f"tests.helpers.train_ranks:{job}", place, ranks, **changes)
    assert statuses == [0] * ranks, Path("rank0.log").read_text("utf-8")


@pytest.mark.parametrize(
    "changes",
    [{"gradient_checkpointing": True, "dropout": 0.1}, {"quantization": "none", "dora": True}],
    ids=["nf4", "none"],
)
def test_gradients_are_those_of_one_process(place: Path, forks: Forks, changes: dict[str, Any]) -> None:
    ranks = 3 if "dora" in changes else 2
    for processes in (1, ranks):
        run(forks, place, processes, "save_gradients", **{**FOUR_BITS, "epochs": 1.0, **changes})
    one, other = (torch.load(f"gradients{processes}.pt") for processes in (1, ranks))
    assert len(one) == 3
    for step, theirs in zip(one, other, strict=True):
        for a, b in zip(step, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(any(t.abs().max() > 1e-3 for t in step) for step in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32", "save_every": 2, "max_grad_norm": 1e-3, "target_modules": ["down_proj"]},
        {"optimizer": "paged_adamw_8bit", "gradient_checkpointing": True, "init": "loftq", "dropout": 0.1},
        {"optimizer": "muon", "dora": True, "init": "loftq", "quantization": "fp4", "neftune_alpha": 5.0},
    ],
    ids=["one layer of seven", "8 bits and loftq", "muon, dora and loftq"],
)
def test_the_adapter_is_that_of_ddp_to_the_byte(place: Path, forks: Forks, changes: dict[str, Any]) -> None:
    written, curves = [], []
    for accelerate in ("ddp", "fsdp"):
        run(forks, place, 2, accelerate=accelerate, accumulation=2, max_steps=3, **changes)
        written.append(sha256_folder("models/adapter"))
        curves.append([(row["loss"], row["grad_norm"], row["validation_loss"]) for row in curve()])
        assert Path("rank1.log").read_text("utf-8") == ""
    assert written[0] == written[1]
    assert curves[0] == curves[1]


def test_checkpoints_resume_on_one_process_on_ddp_and_back(place: Path, forks: Forks) -> None:
    changes = {**FOUR_BITS, "dropout": 0.2, "save_every": 2, "eval_every": 1, "keep_best": True}
    run(forks, place, 1, **changes)
    alone = adapter()
    run(forks, place, 2, **changes)
    together = sha256_folder("models/adapter")
    assert_close(alone, adapter())
    ways: list[tuple[tuple[int, str], tuple[int, str]]] = [
        ((2, "fsdp"), (1, "fsdp")),
        ((1, "ddp"), (2, "fsdp")),
        ((2, "fsdp"), (2, "ddp")),
    ]
    for (before, how), (after, other) in ways:
        shutil.rmtree("models/adapter")
        killed = forks.run(
            "tests.helpers.train_ranks:train", place, before, kill_after=5, **{**changes, "accelerate": how}
        )
        assert killed == [-signal.SIGKILL] * before
        assert [p.name for p in CHECKPOINTS_FOLDER.glob("*/checkpoint-*")] == ["checkpoint-4"]
        run(forks, place, after, **{**changes, "accelerate": other})
        assert "resuming after step 4 of 6" in Path("rank0.log").read_text("utf-8")
        assert_close(alone, adapter())
    assert sha256_folder("models/adapter") == together  # two ranks all the time


def hold_parts(dtype: str) -> None:
    """Train; fail if this rank holds more than its shard of the frozen base, or a gathered layer that is not computing."""
    from stages.train import fsdp
    from stages.train.__main__ import train_here

    gathered: list[torch.Tensor] = []

    def checked(model: Any, layers: Any, device: str, ranks: int) -> None:
        first, second = (layer.mlp.up_proj for layer in model.causal.model.layers)
        bits = first.base_layer.weight
        assert bits.dtype == getattr(torch, dtype)
        assert bits.nbytes * 2 == first.in_features * first.out_features
        whole = {name: parameter.nbytes for name, parameter in model.named_parameters()}
        cut(model, layers, device, ranks)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor) is not parameter.requires_grad, name
            held = parameter.to_local().nbytes if isinstance(parameter, DTensor) else parameter.nbytes
            assert held == (whole[name] if parameter.requires_grad else whole[name] // ranks), name
        # DDP sends what trains, and nothing else
        ddp = fsdp.wrap_in_ddp(model)
        assert isinstance(ddp, DistributedDataParallel)
        assert all(hasattr(p, "_ddp_ignored") is not p.requires_grad for p in model.parameters())

        def look(*_: Any) -> None:
            assert isinstance(first.base_layer.weight, DTensor)
            gathered.append(second.base_layer.weight)

        second.register_forward_pre_hook(look)

    cut, fsdp.shard_model = fsdp.shard_model, checked
    train_here(train_settings(accelerate="fsdp", accumulation=2, max_steps=1, dtype=dtype))
    assert not any(isinstance(weight, DTensor) or weight.untyped_storage().nbytes() for weight in gathered)
    assert len(gathered) > 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rank_holds_only_its_shard_of_the_frozen_base(place: Path, forks: Forks, dtype: str) -> None:
    statuses = forks.run("tests.train.test_fsdp:hold_parts", place, 2, dtype=dtype)
    assert statuses == [0, 0], Path("rank0.log").read_text("utf-8")


def test_models_that_cannot_be_sharded_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.quantization.*int8.*nf4, fp4 or none"):
        train_settings(launcher="accelerate", accelerate="fsdp", quantization="int8")
    assert train_settings(accelerate="fsdp", quantization="int8")  # of one process there are no parts
    with pytest.raises(UserError, match=r"does not name the classes of its layers.*train\.accelerate=ddp"):
        shard_model(nn.Linear(2, 2), {"LlamaDecoderLayer"}, "cpu", 2)
