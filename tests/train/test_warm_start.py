"""`train.start_from`: a training goes on from the adapter of another, and refuses one that does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.common.core.errors import UserError
from stages.train.__main__ import ADAPTER, main
from stages.train.settings import Lora, TrainSettings
from stages.train.warm_start import refuse_start
from tests.helpers.train_workplace import train_settings

START = Path("models/start")


def test_a_training_goes_on_where_the_adapter_it_starts_from_ended(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = main(train_settings(max_steps=8))
    shutil.copytree(ADAPTER, START)
    onwards = main(train_settings(max_steps=2, start_from=str(START)))
    assert first
    assert onwards
    assert onwards["validation_loss_first"] == first["validation_loss_last"]
    assert set(onwards["start_from"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert "another base" not in capsys.readouterr().out

    # another adapter of the same shape is another training; so is one that peft wrote in 16 bits
    weights = START / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights)
    (START / "base.json").write_text("{}", "utf-8")
    rounded = main(train_settings(max_steps=2, start_from=str(START)))
    assert rounded
    assert rounded["training_key"] != onwards["training_key"]
    assert rounded["validation_loss_first"] == pytest.approx(first["validation_loss_last"], abs=0.02)
    assert "trained on another base" in capsys.readouterr().out
    assert load_file(ADAPTER / "adapter_model.safetensors").popitem()[1].dtype == torch.float32

    with pytest.raises(UserError, match=r"lacks 4 tensors \(.*k_proj.*has besides 4 tensors \(.*q_proj"):
        main(train_settings(target_modules=["k_proj", "v_proj"], start_from=only(("q_proj", "v_proj"))))


def only(layers: tuple[str, ...]) -> str:
    """Keep only these layers of the adapter."""
    path = START / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if any(layer in n for layer in layers)}, path)
    return str(START)


def write_adapter(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    save_file({}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8, "lora_alpha": 32}, "train.lora.rank is 4, but its r is 8; train.lora.alpha is 8, but its"),
        ({"use_dora": True}, "train.lora.dora is False, but its use_dora is True"),
        ({"peft_type": "IA3"}, "it is of peft's kind IA3, not LORA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*, which is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is .*, which is not supported"),
        ({"bias": "all"}, "it trained biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun with pissa_niter_4, which changed the base under it"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_with_all_that_differs(
    changes: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_adapter(START, **changes)
    with pytest.raises(UserError, match=message):
        refuse_start(TrainSettings(lora=Lora(rank=4, alpha=8), start_from=str(START)))


def test_what_is_no_adapter_or_will_be_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, message in ((START, "no file adapter_config.json"), (ADAPTER, "what this stage replaces")):
        with pytest.raises(UserError, match=message):
            refuse_start(TrainSettings(start_from=str(folder)))
    with pytest.raises(ValueError, match=r"default with train\.start_from"):
        TrainSettings(lora=Lora(init="loftq"), start_from="models/start")
    with pytest.raises(ValueError, match="relative to the repository's root"):
        TrainSettings(start_from="/models/start")
