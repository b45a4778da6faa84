"""The train stage: what it writes, that it writes the same again, what stops it."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder
from stages.common.curve import CURVE_COLUMNS, CURVE_FILE
from stages.train.__main__ import ADAPTER, main
from stages.train.checkpoints import CHECKPOINTS_FOLDER
from tests.helpers.train_workplace import train_settings


def rows() -> list[dict[str, str]]:
    with CURVE_FILE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trains_and_writes_adapter_curve_and_metrics(place: Path) -> None:
    metrics = main(train_settings(epochs=4.0))
    names = sorted(p.name for p in ADAPTER.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "base.json", "quantization.json"]
    assert metrics["steps"] == 32
    assert metrics["epochs"] == 4.0
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]
    assert 0 < metrics["labelled_tokens_trained"] < metrics["tokens_trained"]
    assert metrics["trainable_parameters"] == sum(
        t.numel() for t in load_file(ADAPTER / "adapter_model.safetensors").values()
    )
    curve = rows()
    assert list(curve[0]) == CURVE_COLUMNS
    assert [int(row["step"]) for row in curve] == list(range(33))
    assert [bool(row["validation_loss"]) for row in curve] == [True, *[False] * 31, True]
    assert int(curve[-1]["tokens"]) == metrics["tokens_trained"]
    assert float(curve[1]["learning_rate"]) < float(curve[2]["learning_rate"])  # the warmup
    assert not list(CHECKPOINTS_FOLDER.glob("*"))
    config = (ADAPTER / "adapter_config.json").read_text("utf-8")
    assert str(place) not in config
    assert json.loads(config)["target_modules"] == sorted(json.loads(config)["target_modules"])
    exact = main(train_settings(quantization="none", max_steps=1))  # the same forward pass, without rounding
    assert exact["base_loss"] == exact["validation_loss_first"] == metrics["base_loss"]
    assert metrics["base_loss"] != metrics["validation_loss_first"]


def test_a_base_that_does_not_fit_unquantized_has_no_base_loss_and_trains_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(train_settings(max_steps=2))
    trained = sha256_folder(ADAPTER)
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {"cpu": 1, 0: 1})
    assert main(train_settings(max_steps=2))["base_loss"] is None
    assert "base_loss is left out" in capsys.readouterr().out
    assert sha256_folder(ADAPTER) == trained


def test_two_runs_are_the_same_bytes_and_another_seed_is_not(place: Path) -> None:
    seen = []
    for seed in (0, 0, 1):
        main(train_settings(seed=seed, dropout=0.1, max_steps=4))
        seen.append(sha256_folder(ADAPTER))
    assert seen[0] == seen[1] != seen[2]


def test_gradient_checkpointing_changes_nothing_but_memory(place: Path) -> None:
    seen = []
    for gradient_checkpointing in (False, True):
        main(train_settings(dropout=0.1, gradient_checkpointing=gradient_checkpointing, max_steps=4))
        seen.append(sha256_folder(ADAPTER))
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_goes_on_from_the_checkpoint_not_from_the_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.train import trainer

    def interrupt(self: Any) -> None:
        original(self)
        if self.step == 7:
            raise KeyboardInterrupt

    original = trainer.PackTrainer.end_step
    monkeypatch.setattr(trainer.PackTrainer, "end_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(train_settings())
    seen: list[int] = []

    def watch(self: Any) -> None:
        original(self)
        seen.append(self.step)

    monkeypatch.setattr(trainer.PackTrainer, "end_step", watch)
    main(train_settings())
    assert seen == list(range(7, 17))


def test_a_loss_that_is_not_finite_stops_and_writes_nothing(place: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: the (loss|gradient) is not finite.*learning_rate"):
        main(train_settings(learning_rate=1e30, max_grad_norm=0.0, save_every=1, warmup=0.0))
    assert not ADAPTER.exists()
    assert not list(ADAPTER.parent.glob(".adapter*"))
    assert len(list(CHECKPOINTS_FOLDER.glob("*/checkpoint-*"))) == 1


def test_budget_in_tokens(place: Path) -> None:
    metrics = main(train_settings(max_tokens=150, save_every=0))
    assert 75 < metrics["tokens_trained"] <= 150


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_adapter_is_read_by_peft(place: Path, quantization: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    main(train_settings(quantization=quantization, rslora=True, target_modules=["q_proj", "down_proj"]))
    base = AutoModelForCausalLM.from_pretrained("models/base")
    tokens = torch.arange(1, 12)[None]
    before = base(tokens).logits
    after = PeftModel.from_pretrained(base, str(ADAPTER))(tokens).logits
    assert not torch.allclose(before, after)
    names = {name.split(".")[-3] for name in load_file(ADAPTER / "adapter_model.safetensors")}
    assert names == {"q_proj", "down_proj"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Path("data/packed/train.arrow").unlink(), "data/packed/train.arrow: no such file"),
        (lambda: cut(Path("data/packed/train.arrow")), "not readable as an Arrow stream"),
        (lambda: shutil.rmtree("models/base"), "no model here"),
        (lambda: cut(Path("models/base/model.safetensors")), "is not a complete safetensors file"),
    ],
)
def test_bad_input_is_named_and_nothing_written(place: Path, spoil: Any, message: str) -> None:
    spoil()
    with pytest.raises(UserError, match=message):
        main(train_settings())
    assert not ADAPTER.exists()
    assert not CURVE_FILE.exists()


@pytest.mark.slow
def test_unknown_target_module_names_the_known(place: Path) -> None:
    with pytest.raises(UserError, match=r"'q_porj'.*q_proj"):
        main(train_settings(target_modules=["q_porj"]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
