"""The merge stage: the merged model is the trained one, and the gate says so when it is not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.common.errors import UserError
from stages.common.files import sha256_folder
from stages.common.lora_linear import dense_weight
from stages.common.quantized import Quantization, load_model, round_trip
from stages.common.stage import Settings
from stages.merge import weights
from stages.merge.__main__ import ADAPTER, BASE, MERGED, main
from stages.merge.settings import MergeSettings
from stages.train.__main__ import main as train
from tests.training import train_settings, workplace, write_packs


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/adapter trained. Copy it, do not write to it."""
    root = workplace(tmp_path_factory.mktemp("trained") / "place", tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(train_settings(epochs=12.0))
    return root


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(shutil.copytree(trained, tmp_path / "place"))
    monkeypatch.chdir(root)
    return root


def settings(**changes: Any) -> Settings:
    return Settings("merge", {"merge": replace(MergeSettings(), **changes)})


@pytest.mark.parametrize(
    "quantization",
    [Quantization("nf4", True, "bfloat16"), Quantization("nf4", False, "float32"), Quantization("none", False, "float32")],
    ids=str,
)  # fmt: skip
def test_one_weight_goes_through_what_loading_does_to_all(
    tiny_model: Path, quantization: Quantization
) -> None:
    base = load_file(tiny_model / "model.safetensors")
    model = load_model(tiny_model, quantization)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in set(layers) - {"lm_head"}:
        loaded = dense_weight(model.get_submodule(name).weight, torch.float32)
        assert torch.equal(round_trip(base[f"{name}.weight"], quantization), loaded), name


def test_merged_model_is_the_trained_one(place: Path) -> None:
    metrics = main(settings())
    assert metrics["split"] == "validation"
    assert metrics["tokens"] > 50
    assert metrics["mean_kl"] < 1e-3
    assert metrics["trained_loss"] == pytest.approx(metrics["merged_loss"], abs=5e-3)
    assert metrics["trained_loss"] < 5.9  # the adapter is in: the loss without it is 6.3
    assert metrics["tensors_merged"] == 14


def test_only_quantized_layers_change_and_files_are_kept(place: Path) -> None:
    main(settings())
    before, after = (load_file(folder / "model.safetensors") for folder in (BASE, MERGED))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert all(t.dtype == torch.bfloat16 for t in after.values())
    kept = {p.name for p in BASE.iterdir()} - {"model.safetensors"}
    assert {p.name for p in MERGED.iterdir()} == kept | {"model.safetensors", "merge_manifest.json"}
    assert all((BASE / name).read_bytes() == (MERGED / name).read_bytes() for name in kept)
    manifest = json.loads((MERGED / "merge_manifest.json").read_text("utf-8"))
    assert manifest["quantization"] == json.loads((ADAPTER / "quantization.json").read_text("utf-8"))


def test_merges_in_float32_over_what_training_dequantized(place: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    main(settings())
    name = "model.layers.1.mlp.up_proj"
    base = load_file(BASE / "model.safetensors")[f"{name}.weight"]
    adapter = load_file(ADAPTER / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    packed, state = quantize_4bit(base, quant_type="nf4", compress_statistics=True)
    state.dtype = torch.float32  # the sum is rounded once, at the end
    wanted = (dequantize_4bit(packed, state) + 2.0 * (b @ a)).bfloat16()  # alpha / rank is 8 / 4
    assert torch.equal(load_file(MERGED / "model.safetensors")[f"{name}.weight"], wanted)


def test_two_merges_are_the_same_bytes(place: Path) -> None:
    seen = []
    for _ in range(2):
        main(settings())
        seen.append(sha256_folder(MERGED))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("mistake", ["original base", "adapter twice", "no adapter"])
def test_gate_fails_when_the_merge_is_wrong(
    place: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    def wrong(model: Any) -> dict[str, torch.Tensor]:
        merged, base = right(model), load_file(BASE / "model.safetensors")
        deltas = {
            f"{weights.base_name(n)}.weight": weights.delta(m)
            for n, m in model.named_modules()
            if isinstance(m, weights.LoraLinear)
        }
        if mistake == "original base":
            return {n: base[n].float() + d for n, d in deltas.items()}
        sign = 1 if mistake == "adapter twice" else -1
        return {n: merged[n] + sign * d for n, d in deltas.items()}

    right = weights.merged_weights
    limits = {"max_mean_kl": 2e-5}  # the tiny model's own noise is a thirtieth
    main(settings(**limits))
    before = sha256_folder(MERGED)
    monkeypatch.setattr(weights, "merged_weights", wrong)
    with pytest.raises(
        UserError, match=r"not the trained one: .*mean_kl [0-9.e-]+, largest_logit_difference"
    ):
        main(settings(**limits))
    assert sha256_folder(MERGED) == before  # what stood there stays
    assert not list(MERGED.parent.glob(".merged*"))


def test_without_quantization_other_layers_keep_their_bytes(place: Path) -> None:
    train(train_settings(quantization="none", target_modules=["v_proj"], rslora=True, max_steps=6))
    assert main(settings())["tensors_merged"] == 2
    before, after = (load_file(folder / "model.safetensors") for folder in (BASE, MERGED))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.v_proj.weight" for i in (0, 1)}


def test_compares_training_packs_where_nothing_is_held_out(place: Path) -> None:
    write_packs(Path("data/packed/validation.arrow"), 0)
    assert main(settings())["split"] == "train"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: shutil.rmtree(ADAPTER), "quantization.json: no such file"),
        (lambda: (ADAPTER / "adapter_model.safetensors").write_bytes(b"cut"), "the adapter does not load"),
        (lambda: (BASE / "model.safetensors").write_bytes(b"cut"), "the model does not load"),
    ],
)
def test_bad_input_is_named_and_nothing_written(place: Path, spoil: Any, message: str) -> None:
    spoil()
    with pytest.raises(UserError, match=message):
        main(settings())
    assert not MERGED.exists()
