"""The merge stage: the merged model is the trained one, and the gate fails when it is not."""

import shutil
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, sha256_file, sha256_folder, write_json
from stages.common.core.paths import ADAPTER, BASE_MODEL, MERGED_MODEL
from stages.common.core.stage import Settings
from stages.common.model.load import load_frozen_model
from stages.common.model.lora import low_rank_update
from stages.common.model.loss import Head
from stages.common.model.mergeable import linear_weights
from stages.common.model.quantize import Quantization, dense_weight, round_trip
from stages.common.model.trained import load_trained
from stages.common.model.weight_files import INDEX_FILE
from stages.merge import weight_writer
from stages.merge.__main__ import comparison_rows, main
from stages.merge.adapter_weights import read_updates
from stages.merge.merged_weights import Recipe
from stages.merge.parity import LabelledStates, Parity, all_targets, check_parity, measure_parity, read_states
from stages.merge.settings import MergeSettings
from stages.train.__main__ import main as train
from tests.helpers.train_workplace import train_settings, workplace, write_packs

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
UP = "model.layers.1.mlp.up_proj"
WEIGHTS = "model.safetensors"
LOOSE = {"max_mean_kl": 9.0, "max_logit_difference": 99.0, "min_top1_agreement": 0.0, "max_median_kl": 9.0, "max_kl_p99": 99.0}  # fmt: skip


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
    return Settings("merge", {"merge": replace(MergeSettings(), **changes), "train": train_settings().train})


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def factors(name: str, file: str = "adapter_model.safetensors") -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(ADAPTER / file)
    a, b = (tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    return a, b


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization",
    [
        Quantization("nf4", True, "bfloat16"),
        Quantization("nf4", False, "float32"),
        Quantization("fp4", True, "bfloat16"),
        Quantization("int8", False, "bfloat16"),
        Quantization("none", False, "float32"),
    ],
    ids=lambda q: f"{q.quantization}-{q.double_quantization}-{q.dtype}",
)
def test_the_round_trip_of_one_weight_equals_loading_the_model(
    tiny_model: Path, quantization: Quantization
) -> None:
    base = load_file(tiny_model / WEIGHTS)
    model = load_frozen_model(tiny_model, quantization)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    assert len(layers) == 14
    for name, module in layers.items():
        loaded = dense_weight(module.weight, torch.float32)
        assert torch.equal(round_trip(base[f"{name}.weight"], quantization), loaded), name
    assert linear_weights(tiny_model) == {f"{name}.weight" for name in layers}


@pytest.mark.slow
def test_merged_model_is_the_trained_one(place: Path) -> None:
    metrics = main(settings())
    assert (metrics["base"], metrics["gate"], metrics["split"]) == ("dequantized", "passed", "validation")
    assert metrics["limits"] == {
        "max_mean_kl": 0.02,
        "max_median_kl": 0.01,
        "max_kl_p99": 0.3,
        "max_logit_difference": 4.0,
        "min_top1_agreement": 0.97,
    }
    assert metrics["tokens"] > 50
    assert metrics["mean_kl"] < 1e-3
    assert metrics["trained_loss"] == pytest.approx(metrics["merged_loss"], abs=5e-3)
    assert metrics["loss_difference"] == abs(metrics["trained_loss"] - metrics["merged_loss"])
    assert metrics["trained_loss"] < 5.9  # the adapter is in: the loss without it is 6.3
    assert metrics["tensors_merged"] == 14


@pytest.mark.parametrize("base", ["dequantized", "original"])
def test_only_layers_change_and_every_other_byte_stays(place: Path, base: str) -> None:
    main(settings(base=base, **LOOSE))
    before, after = (load_file(folder / WEIGHTS) for folder in (BASE_MODEL, MERGED_MODEL))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == LINEAR
    kept = set(before) - changed
    assert {name.split(".")[-2] for name in kept} == {
        *("embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"),
    }
    for name in kept:
        assert before[name].dtype == after[name].dtype
        assert before[name].view(torch.uint8).equal(after[name].view(torch.uint8)), name
    assert header(BASE_MODEL / WEIGHTS) == header(MERGED_MODEL / WEIGHTS)
    files = {p.name for p in BASE_MODEL.iterdir()} - {WEIGHTS}
    assert {p.name for p in MERGED_MODEL.iterdir()} == files | {WEIGHTS, "merge_manifest.json"}
    assert all((BASE_MODEL / name).read_bytes() == (MERGED_MODEL / name).read_bytes() for name in files)


def test_tied_embeddings_stay_tied(place: Path) -> None:
    main(settings())
    model = load_frozen_model(MERGED_MODEL, Quantization("none", False, "bfloat16"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, load_file(BASE_MODEL / WEIGHTS)["model.embed_tokens.weight"])


def test_merges_in_float32_over_what_training_dequantized(place: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    main(settings())
    a, b = factors(UP)
    base = load_file(BASE_MODEL / WEIGHTS)[f"{UP}.weight"]
    packed, state = quantize_4bit(base, quant_type="nf4", compress_statistics=True)
    state.dtype = torch.float32  # the sum is rounded once, at the end
    expected = (dequantize_4bit(packed, state) + 2.0 * (b @ a)).bfloat16()  # alpha / rank is 8 / 4
    assert torch.equal(load_file(MERGED_MODEL / WEIGHTS)[f"{UP}.weight"], expected)


def test_original_merges_the_update_into_the_unquantized_base(place: Path) -> None:
    kl = {base: main(settings(base=base, **LOOSE))["mean_kl"] for base in ("dequantized", "original")}
    assert kl["original"] > 10 * kl["dequantized"]  # another function than the trained one
    a, b = factors(UP)
    expected = (load_file(BASE_MODEL / WEIGHTS)[f"{UP}.weight"].float() + 2.0 * (b @ a)).bfloat16()
    assert torch.equal(load_file(MERGED_MODEL / WEIGHTS)[f"{UP}.weight"], expected)


def test_manifest_lists_inputs_and_outputs(place: Path) -> None:
    main(settings())
    manifest = read_json(MERGED_MODEL / "merge_manifest.json")
    for key, folder in (("base", BASE_MODEL), ("merged", MERGED_MODEL)):
        assert manifest[key] == {WEIGHTS: sha256_file(folder / WEIGHTS)}
    assert manifest["adapter"] == {path.name: sha256_file(path) for path in ADAPTER.iterdir()}
    assert manifest["quantization"] == read_json(ADAPTER / "quantization.json")
    assert manifest["merge"] == {
        "base": "dequantized",
        "formula": "dequantize(Q(W)) + s B A of layers with an adapter, dequantize(Q(W)) of the other quantized layers; "
        "in float32, rounded once",
    }
    assert manifest["tensors"] == {"merged": 14, "kept": 6}
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"].keys() == {"bitsandbytes", "torch"}


def test_merging_twice_gives_the_same_bytes(place: Path) -> None:
    seen = []
    for _ in range(2):
        main(settings(parity_tokens=0))
        seen.append(sha256_folder(MERGED_MODEL))
    assert seen[0] == seen[1]


def test_sharded_files_keep_their_layout_and_give_the_same_weights(place: Path) -> None:
    main(settings(parity_tokens=0))
    whole = load_file(MERGED_MODEL / WEIGHTS)
    split_weight_file(BASE_MODEL, 3)
    names = sorted(path.name for path in BASE_MODEL.glob("model-*.safetensors"))
    write_json(ADAPTER / "base.json", {name: sha256_file(BASE_MODEL / name) for name in names})
    save_file({"stray": torch.zeros(2)}, BASE_MODEL / "consolidated.safetensors")  # no file of the index
    metrics = main(settings())
    assert metrics["mean_kl"] < 1e-3
    assert sorted(path.name for path in MERGED_MODEL.glob("*.safetensors")) == names
    assert len(names) == 3
    assert (BASE_MODEL / INDEX_FILE).read_bytes() == (MERGED_MODEL / INDEX_FILE).read_bytes()
    for name in names:
        assert header(BASE_MODEL / name) == header(MERGED_MODEL / name)
    merged = {k: v for name in names for k, v in load_file(MERGED_MODEL / name).items()}
    assert merged.keys() == whole.keys()
    assert all(torch.equal(whole[name], merged[name]) for name in whole)
    assert read_json(MERGED_MODEL / "merge_manifest.json")["merged"] == {
        n: sha256_file(MERGED_MODEL / n) for n in names
    }


FITS = Parity(100, 0.02, 0.01, 0.3, 4.0, 0.97, 1.0, 1.1, 0.1, 0.03)  # each limited figure at its limit


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
@pytest.mark.parametrize(
    ("figure", "limit"),
    [
        ("mean_kl", 0.02),
        ("largest_logit_difference", 4.0),
        ("top1_agreement", 0.97),
        ("median_kl", 0.01),
        ("kl_p99", 0.3),
    ],
)
def test_each_limit_alone_fails_the_gate(figure: str, limit: float, wrong: float) -> None:
    check_parity(FITS, MergeSettings())
    changed: dict[str, Any] = {figure: limit / wrong if figure == "top1_agreement" else limit * wrong}
    spoilt = replace(FITS, **changed)
    with pytest.raises(UserError, match=f"not the trained one: {figure} beyond the limit in conf/merge/deq"):
        check_parity(spoilt, MergeSettings())


def test_a_gate_that_fails_on_few_tokens_says_so() -> None:
    with pytest.raises(
        UserError, match=r"^only 32 labelled tokens were compared, too few .*mean_kl 1\.5"
    ) as error:
        check_parity(replace(FITS, tokens=32, mean_kl=1.5), MergeSettings())
    assert "merged wrongly" not in str(error.value)


def test_rare_labels_do_not_fail_the_gate() -> None:
    """After four steps, ends of documents are as unlikely as e^-12, and rounding moves them by 1.5 nats."""
    torch.manual_seed(0)
    logits = torch.randn(600, 50) * 3
    logits[:, 0] = logits.logsumexp(-1) - 12
    targets = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    targets[::15] = 0  # the ends
    rounded = logits + torch.randn_like(logits) * 0.02
    rounded[:, 0] += 1.5
    head = Head(torch.eye(50))
    parity = measure_parity(LabelledStates(logits, head), LabelledStates(rounded, head), targets)
    assert parity.loss_difference == pytest.approx(0.1, abs=0.005)
    assert parity.loss_difference_error == pytest.approx(1.5 * (14 / 15**2 / 600) ** 0.5, rel=0.05)
    assert parity.median_kl < parity.mean_kl < 1e-3
    check_parity(parity, MergeSettings())
    shifted = LabelledStates(logits * 1.2, head)  # not rounding: every token is more certain
    with pytest.raises(UserError, match="mean_kl, median_kl"):
        check_parity(measure_parity(LabelledStates(logits, head), shifted, targets), MergeSettings())


@pytest.mark.parametrize("multiplies", [True, False], ids=["bfloat16", "widened"])
def test_a_barely_trained_adapter_passes(
    place: Path, monkeypatch: pytest.MonkeyPatch, multiplies: bool
) -> None:
    monkeypatch.setattr("stages.common.model.products.multiplies_bfloat16", lambda: multiplies)
    train(train_settings(max_steps=2, save_every=0))
    metrics = main(settings())
    assert metrics["gate"] == "passed"
    assert metrics["mean_kl"] < 1e-3


@pytest.mark.parametrize("limit", ["max_mean_kl", "max_median_kl", "max_kl_p99", "max_logit_difference"])
def test_a_limit_in_conf_fails_the_stage(place: Path, limit: str) -> None:
    with pytest.raises(UserError, match=r"not the trained one: .*mean_kl [0-9.e-]+, median_kl"):
        main(settings(**{**LOOSE, limit: 1e-9}))
    assert [path.name for path in MERGED_MODEL.parent.iterdir() if "merged" in path.name] == []


@pytest.mark.parametrize("mistake", ["original base", "adapter twice", "no adapter", "head"])
def test_gate_fails_when_the_merge_is_wrong(
    place: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    def wrong(recipe: Recipe, name: str, weight: torch.Tensor) -> torch.Tensor:
        update = recipe.updates[name]
        delta = low_rank_update(update.a, update.b, update.scale)
        if mistake == "original base":
            return weight.float() + delta
        return right(recipe, name, weight) + (delta if mistake == "adapter twice" else -delta)

    def spoil_head(*arguments: Any) -> Any:
        written = write(*arguments)
        path = arguments[1] / WEIGHTS
        tensors = load_file(path)
        tensors["model.embed_tokens.weight"] *= 1.1
        save_file(tensors, path)
        return written

    right, write = Recipe.merged_weight, weight_writer.write_merged
    limits = {"max_mean_kl": 2e-5}  # the tiny model's own noise is a thirtieth
    main(settings(**limits))
    before = sha256_folder(MERGED_MODEL)
    if mistake == "head":
        monkeypatch.setattr(weight_writer, "write_merged", spoil_head)
    else:
        monkeypatch.setattr(Recipe, "merged_weight", wrong)
    with pytest.raises(UserError, match=r"not the trained one: .*mean_kl [0-9.e-]+, median_kl"):
        main(settings(**limits))
    assert sha256_folder(MERGED_MODEL) == before  # what stood there stays
    assert not list(MERGED_MODEL.parent.glob(".merged*"))


def test_a_gate_that_is_off_reads_no_packs_and_prints_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("data/packed")
    metrics = main(settings(parity_tokens=0))
    assert metrics == {"base": "dequantized", "gate": "off", "tensors_merged": 14, "tensors_kept": 6}
    assert "merge.parity_tokens is 0: the merged model is not compared" in capsys.readouterr().out
    assert (MERGED_MODEL / WEIGHTS).exists()


def test_compares_training_packs_where_nothing_is_held_out(place: Path) -> None:
    write_packs(Path("data/packed/validation.arrow"), 0)
    assert main(settings())["split"] == "train"


def test_without_quantization_other_layers_keep_their_bytes(place: Path) -> None:
    train(train_settings(quantization="none", target_modules=["v_proj"], rslora=True, max_steps=6))
    assert main(settings())["tensors_merged"] == 2
    before, after = (load_file(folder / WEIGHTS) for folder in (BASE_MODEL, MERGED_MODEL))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.v_proj.weight" for i in (0, 1)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
    ],
    ids=["plain", "rslora", "dora", "dora, rslora"],
)
def test_an_update_is_what_peft_merges(tiny_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(
        model, LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options})
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path)
    updates = read_updates(tmp_path)
    recipe = Recipe("original", Quantization("none", False, "float32"), updates, frozenset())
    expected = model.merge_and_unload().state_dict()
    base = load_file(tiny_model / WEIGHTS)
    assert len(recipe.changed) == 14
    for name in recipe.changed:
        torch.testing.assert_close(
            recipe.merged_weight(name, base[name]), expected[name], rtol=1e-5, atol=1e-6
        )
        assert not torch.allclose(base[name].float(), expected[name], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"init": "loftq"},
        {"init": "loftq", "dora": True},
        {"dora": True},
        {"quantization": "int8"},
        {"quantization": "fp4", "double_quantization": False},
    ],
    ids=str,
)
def test_merge_reproduces_the_base_that_training_used(place: Path, options: dict[str, Any]) -> None:
    train(train_settings(max_steps=6, **options))
    assert main(settings(max_mean_kl=3e-5))["gate"] == "passed"


def test_original_subtracts_the_initial_update(place: Path) -> None:
    train(train_settings(max_steps=2, init="loftq"))
    main(settings(base="original", **LOOSE))
    base, merged = (load_file(folder / WEIGHTS)[f"{UP}.weight"] for folder in (BASE_MODEL, MERGED_MODEL))
    (a, b), (a0, b0) = factors(UP), factors(UP, "initial.safetensors")
    expected = base.float() + 2.0 * (b @ a - b0 @ a0)
    torch.testing.assert_close(merged.float(), expected, rtol=2**-8, atol=1e-6)  # half a step of bfloat16
    shutil.copyfile(ADAPTER / "initial.safetensors", ADAPTER / "adapter_model.safetensors")
    main(settings(base="original", parity_tokens=0))
    # nothing was learned, so nothing changes
    assert torch.equal(load_file(MERGED_MODEL / WEIGHTS)[f"{UP}.weight"], base)


def test_the_gate_holds_one_model_at_a_time(place: Path) -> None:
    held: list[weakref.ref[Any]] = []

    def load() -> Any:
        model = load_trained(BASE_MODEL, ADAPTER)
        held.append(weakref.ref(model))
        return model

    rows, _ = comparison_rows(100)
    seen = read_states(load, rows)
    assert held[0]() is None
    assert seen.states.shape == (len(all_targets(rows)), 64)


def test_a_merged_weight_that_is_not_finite_is_refused(place: Path) -> None:
    tensors = load_file(BASE_MODEL / WEIGHTS)
    tensors[f"{UP}.weight"][3] = torch.finfo(torch.bfloat16).max
    save_file(tensors, BASE_MODEL / WEIGHTS)
    write_json(ADAPTER / "base.json", {WEIGHTS: sha256_file(BASE_MODEL / WEIGHTS)})
    change_adapter(lambda t: t.update({A.replace("lora_A", "lora_B"): torch.full((128, 4), 1e38)}))()
    with pytest.raises(UserError, match=f"{UP}.weight: the merged weight has a value that is not finite"):
        main(settings(parity_tokens=0))
    assert not MERGED_MODEL.exists()


def test_an_adapter_of_another_base_of_the_same_shape_is_refused(place: Path) -> None:
    tensors = load_file(BASE_MODEL / WEIGHTS)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, BASE_MODEL / WEIGHTS, {"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"trained on another base: the sha256 of models/base/model.safetensors is not the one",
    ):
        main(settings(parity_tokens=0))
    assert not MERGED_MODEL.exists()


def change_adapter(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[], None]:
    def apply() -> None:
        path = ADAPTER / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)

    return apply


def split_weight_file(base: Path, parts: int) -> None:
    """Split the single weight file of a folder into `parts` files with an index."""
    tensors = load_file(base / WEIGHTS)
    names = sorted(tensors)
    places = {name: f"model-{1 + at * parts // len(names)}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save_file({n: tensors[n] for n in names if places[n] == file}, base / file, {"format": "pt"})
    (base / WEIGHTS).unlink()
    write_json(base / INDEX_FILE, {"metadata": {}, "weight_map": places})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def in_two(spoil: Callable[[Path], Any]) -> Callable[[], None]:
    def apply() -> None:
        split_weight_file(BASE_MODEL, 2)
        spoil(BASE_MODEL / "model-2.safetensors")

    return apply


A = f"base_model.model.{UP}.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: shutil.rmtree(ADAPTER), "quantization.json: no such file"),
        (lambda: (ADAPTER / "adapter_model.safetensors").write_bytes(b"cut"), "the adapter does not load"),
        (lambda: cut(BASE_MODEL / WEIGHTS), "trained on another base"),
        (in_two(Path.unlink), "index.json names model-2.safetensors, but there is no"),
        (lambda: (BASE_MODEL / WEIGHTS).unlink(), "no weights in this folder"),
        (change_adapter(lambda t: t.update({A: t[A][:, :32].clone()})), r"belongs to another base"),
        (change_adapter(lambda t: t.pop(A)), r"the adapter does not load \('.*up_proj.lora_A.weight'\)"),
        (change_adapter(lambda t: t.update({A: t[A] / 0})), "the merged weight has a value that is not finite"),
        (change_adapter(lambda t: t.update({n.replace("up_proj", "side_proj"): x for n, x in t.items() if "up_proj" in n})), r"no tensor named model.layers.0.mlp.side_proj.weight \(2 missing\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_written(place: Path, spoil: Any, message: str) -> None:
    spoil()
    with pytest.raises(UserError, match=message):
        main(settings())
    assert [path.name for path in MERGED_MODEL.parent.iterdir() if "merged" in path.name] == []


def test_one_weight_at_a_time_is_in_memory(place: Path) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def merged(name: str, weight: torch.Tensor) -> torch.Tensor:
        assert not any(one() is not None for one in held)
        held.append(weakref.ref(weight))
        return weight + 1

    names = list(linear_weights(BASE_MODEL))
    assert weight_writer.write_merged(BASE_MODEL, MERGED_MODEL, names, merged) == 6
    assert len(held) == len(names) == 14
    before, after = (load_file(folder / WEIGHTS) for folder in (BASE_MODEL, MERGED_MODEL))
    assert all(torch.equal(after[name], before[name] + (name in names)) for name in before)


def test_settings_refuse_unknown_bases_and_impossible_limits() -> None:
    for key, value in {
        "base": "other",
        "parity_tokens": -1,
        "max_mean_kl": 0.0,
        "min_top1_agreement": 1.1,
    }.items():
        with pytest.raises(ValueError, match=f"merge.{key}"):
            MergeSettings(**asdict(MergeSettings()) | {key: value})
