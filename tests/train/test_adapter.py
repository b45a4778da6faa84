"""Options of the adapter and the frozen base, compared with peft, bitsandbytes and plain autograd."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear as PeftLinear
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder
from stages.common.model.load import load_frozen_model
from stages.common.model.lora import LoraLinear, replace_linear_forwards
from stages.common.model.packed_model import PackedModel, mean_loss
from stages.common.model.packs import batch_packs, read_packs
from stages.common.model.products import product_dtype
from stages.common.model.quantize import Quantization, dense_weight, quantized_weight, round_trip
from stages.common.model.trained import ADAPTER_WEIGHTS, INITIAL_WEIGHTS, load_trained, lora_layers
from stages.train import trainer
from stages.train.__main__ import ADAPTER, BASE_MODEL, main
from stages.train.lora_adapter import add_adapter, parameter_groups, resolve_target_modules
from stages.train.settings import Lora, TrainSettings
from tests.helpers.train_workplace import train_settings, workplace

QUANTIZATIONS = ["nf4", "fp4", "int8", "none"]
RANK, ALPHA = 4, 8


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # on tiny tensors threads only wait for each other


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/base and data/packed. Copy it, do not write to it."""
    return workplace(tmp_path_factory.mktemp("packed") / "place", tiny_model)


@pytest.fixture
def place(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(shutil.copytree(packed, tmp_path / "place"))
    monkeypatch.chdir(root)
    return root


def rows(root: Path, split: str = "train") -> list[dict[str, Any]]:
    return batch_packs(read_packs(root / f"data/packed/{split}.arrow"), 2)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Of one document (1, tokens), as training computes them."""
    packed = PackedModel(model)
    tokens = ids.shape[1]
    states = packed.hidden(ids, torch.arange(tokens)[None], (tokens,))
    return states @ packed.causal.get_output_embeddings().weight.t()


def quantized_linear(quantization: Quantization, bias: bool = True) -> Any:
    """A layer of 48 inputs and 40 outputs whose weight is quantized, as `load_frozen_model` makes one."""
    torch.manual_seed(3)
    layer = nn.Linear(48, 40, bias=bias).requires_grad_(False)
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = quantized_weight(weight, quantization)
    return layer


def lora_layer(base: nn.Module, **options: Any) -> LoraLinear:
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, **options)
    torch.manual_seed(4)
    layer = LoraLinear(base, "default", config=config, r=RANK, lora_alpha=ALPHA)
    nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    if options.get("use_dora"):
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.data.mul_(1 + 0.2 * torch.rand_like(magnitude))
    return layer


def by_autograd(layer: LoraLinear, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """What the layer computes, in the words of the papers, W dense and everything left to autograd."""
    a, b, bias = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.base_layer.bias
    s, dropped = layer.scaling["default"], layer.lora_dropout["default"](x)
    if "default" not in layer.lora_magnitude_vector:
        return linear(x, w, bias) + s * linear(linear(dropped, a), b)
    norm = (w + s * b @ a).norm(dim=1).detach()
    g = layer.lora_magnitude_vector["default"].weight / norm
    return linear(x, w, bias) + (g - 1) * linear(dropped, w) + g * s * linear(linear(dropped, a), b)


# --- the frozen base


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_layers_multiply_by_dense_weight_in_training_and_evaluation(
    tiny_model: Path, kind: str, dtype: str
) -> None:
    quantization = Quantization(kind, True, dtype)
    model = load_frozen_model(tiny_model, quantization)
    file = load_file(tiny_model / "model.safetensors")
    torch.manual_seed(0)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        layer = model.get_submodule(name)
        own = getattr(torch, dtype)
        weight = dense_weight(layer.weight, product_dtype(own, layer.weight.device))
        assert torch.equal(
            round_trip(file[f"{name}.weight"], quantization), dense_weight(layer.weight, torch.float32)
        )
        x = torch.randn(7, weight.shape[1], dtype=own)
        wanted = linear(x.to(weight.dtype), weight).to(own)
        for mode in (True, False):
            assert torch.equal(layer.train(mode)(x), wanted), (name, mode)
    kinds = {type(m.weight).__name__ for m in model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {"Parameter"} | {
        "nf4": {"Params4bit"},
        "fp4": {"Params4bit"},
        "int8": {"Int8Params"},
    }.get(kind, set())


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("nf4", 0.05, 0.12), ("fp4", 0.08, 0.18), ("int8", 0.004, 0.015)]
)
def test_quantization_loses_as_much_as_its_bits_allow(kind: str, low: float, high: float) -> None:
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    parameter: Any = quantized_weight(weight, Quantization(kind, True, "float32"))
    dense = dense_weight(parameter, torch.float32)
    assert low < float((dense - weight).norm() / weight.norm()) < high
    if kind == "int8":
        theirs = int8_vectorwise_dequant(parameter.data, parameter.SCB)
        assert bool(
            ((dense - weight).abs() <= weight.abs().amax(1, keepdim=True) / 225).all()
        )  # float16 in between
    else:
        theirs = dequantize_4bit(parameter.data, parameter.quant_state)
    torch.testing.assert_close(dense, theirs, rtol=1e-6, atol=1e-7)
    assert parameter.data.nbytes == weight.numel() * (1 if kind == "int8" else 0.5)


def test_storage_of_the_bits_changes_nothing_but_their_dtype(tiny_model: Path) -> None:
    plain = Quantization("nf4", True, "bfloat16")
    models = [load_frozen_model(tiny_model, q) for q in (plain, replace(plain, quant_storage="bfloat16"))]
    first, second = (m.get_submodule("model.layers.0.mlp.up_proj") for m in models)
    assert (first.weight.dtype, second.weight.dtype) == (torch.uint8, torch.bfloat16)
    assert torch.equal(first.weight.data.flatten(), second.weight.data.flatten().view(torch.uint8))
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    assert torch.equal(first(x), second(x))
    layer = lora_layer(second)
    assert torch.equal(layer(x), lora_layer(first)(x))


def test_old_folders_and_unknown_fields_of_quantization_json(tmp_path: Path) -> None:
    quantization = Quantization("int8", False, "float32", initialisation="loftq")
    quantization.save(tmp_path)
    assert Quantization.load(tmp_path) == quantization
    old = {"quantization": "nf4", "double_quantization": True, "dtype": "bfloat16"}
    (tmp_path / "quantization.json").write_text(json.dumps(old), "utf-8")
    assert Quantization.load(tmp_path) == Quantization("nf4", True, "bfloat16")


# --- gradients


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_gradients_are_those_of_autograd(kind: str, dora: bool, dropout: float) -> None:
    base = quantized_linear(Quantization(kind, True, "float32"))
    layer = lora_layer(base, use_dora=dora, lora_dropout=dropout).train()
    weight = dense_weight(base.weight, torch.float32)
    torch.manual_seed(5)
    start, dy = torch.randn(2, 9, 48), torch.randn(2, 9, 40)
    results = []
    for ours in (True, False):
        x = start.clone().requires_grad_()
        torch.manual_seed(6)  # the same units are dropped
        y = layer(x) if ours else by_autograd(layer, x, weight)
        trained = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        assert len(trained) == (3 if dora else 2)
        gradients = torch.autograd.grad(y, [x, *trained.values()], dy)
        results.append([y.detach(), *gradients])
    for ours_, theirs in zip(*results, strict=True):
        assert float(theirs.abs().max()) > 1e-2
        torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_gradient_through_a_layer_without_adapter(kind: str) -> None:
    base = quantized_linear(Quantization(kind, True, "float32"))
    model = nn.Sequential(base)
    replace_linear_forwards(model)
    torch.manual_seed(5)
    start, dy = torch.randn(2, 9, 48), torch.randn(2, 9, 40)
    found = []
    for forward in (model, lambda x: linear(x, dense_weight(base.weight, torch.float32), base.bias)):
        x = start.clone().requires_grad_()
        y = forward(x)
        y.backward(dy)
        found.append((y.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_trained_weight_is_the_function_of_the_layer() -> None:
    for dora in (False, True):
        layer = lora_layer(quantized_linear(Quantization("nf4", True, "float32")), use_dora=dora)
        x = torch.randn(5, 48)
        torch.testing.assert_close(
            layer(x), linear(x, layer.trained_weight(), layer.base_layer.bias), rtol=1e-5, atol=1e-5
        )


# --- LoRA's options


def test_dora_is_peft_s_own() -> None:
    for dropout in (0.0, 0.4):
        base = nn.Linear(48, 40)
        layer = lora_layer(base, use_dora=True, lora_dropout=dropout)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True, lora_dropout=dropout)
        theirs: Any = PeftLinear(copy.deepcopy(base), "default", config=config, r=RANK, lora_alpha=ALPHA)
        torch.testing.assert_close(  # both begin as the base: the magnitude is the norm of its rows
            theirs.lora_magnitude_vector["default"].weight, base.weight.norm(dim=1), rtol=1e-6, atol=1e-6
        )
        found = theirs.load_state_dict(layer.state_dict(), strict=True)
        assert not found.missing_keys
        x, results = torch.randn(6, 48), []
        for module in (layer, theirs):
            torch.manual_seed(6)
            y = module.train()(x)
            module.zero_grad()
            y.square().sum().backward()
            parts = (module.lora_A, module.lora_B, module.lora_magnitude_vector)
            results.append([y.detach(), *(p["default"].weight.grad for p in parts)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in QUANTIZATIONS), ("nf4", "bfloat16")]
)
def test_dora_begins_as_the_base(tiny_model: Path, kind: str, dtype: str) -> None:
    model = load_frozen_model(tiny_model, Quantization(kind, True, dtype))
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        before = logits(model, ids)
        adapted = add_adapter(model, Lora(rank=4, alpha=8, dora=True), seed=0)
        torch.testing.assert_close(logits(adapted, ids), before, rtol=1e-5, atol=1e-5)
    names = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert sum("magnitude" in n for n in names) == 14
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12 / 9), (True, 12 / 3)])
def test_scale_is_alpha_over_rank_or_its_root(tiny_model: Path, rslora: bool, scale: float) -> None:
    model = load_frozen_model(tiny_model, Quantization("none", True, "float32"))
    lora = Lora(rank=9, alpha=12, rslora=rslora, target_modules=["q_proj"])
    _, layer = next(lora_layers(add_adapter(model, lora, seed=0)))
    nn.init.normal_(layer.lora_B["default"].weight)
    a, b = (parts["default"].weight.detach() for parts in (layer.lora_A, layer.lora_B))
    assert a.shape == (9, 64)
    x = torch.randn(3, 64)
    wanted = linear(x, layer.base_layer.weight) + scale * linear(linear(x, a), b)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)


def test_dropout_drops_its_share_of_the_adapter_s_input_in_training_only() -> None:
    base = nn.Linear(RANK, RANK, bias=False)
    base.weight.data.zero_()
    layer = lora_layer(base, lora_dropout=0.3)
    for parts in (layer.lora_A, layer.lora_B):
        parts["default"].weight.data = torch.eye(RANK)
    x = torch.ones(5000, RANK)
    torch.manual_seed(0)
    y = layer.train()(x) / (ALPHA / RANK)
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7))
    assert torch.equal(layer.eval()(x) / (ALPHA / RANK), x)


def targets(model: Any, wanted: Any) -> set[str]:
    adapted = add_adapter(model, Lora(rank=2, target_modules=wanted), seed=0)
    return {name for name, _ in lora_layers(adapted)}


def test_target_modules_are_all_a_list_or_a_pattern(tiny_model: Path) -> None:
    def model() -> Any:
        return load_frozen_model(tiny_model, Quantization("none", True, "float32"))

    attention = [f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qkvo"]
    mlp = [f"model.layers.{i}.mlp.{x}_proj" for i in (0, 1) for x in ("gate", "up", "down")]
    assert targets(model(), "all-linear") == {*attention, *mlp}
    assert targets(model(), ["q_proj", "mlp.up_proj"]) == {
        n for n in (*attention, *mlp) if n.endswith(("q_proj", "up_proj"))
    }
    assert targets(model(), r".*layers\.1\.self_attn\.[qv]_proj") == {attention[4], attention[6]}


CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {}, "no plain linear layer"),
        (
            "mixtral",
            {"num_local_experts": 4},
            r"[6-9]\d\.\d% of the weights in layers are experts \(such as layers",
        ),
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 48}, "are experts"),
        ("olmoe", {"num_experts": 4}, "are experts"),
    ],
)
def test_all_linear_refuses_what_it_would_leave_out(kind: str, changes: dict[str, Any], message: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIG, **changes))
    with pytest.raises(UserError, match=f"target_modules=all-linear: .*{message}"):
        resolve_target_modules(model, "all-linear")


def test_all_linear_is_the_text_model_without_subclasses_and_head() -> None:
    from transformers import AutoModelForImageTextToText, Gemma3Config

    config = Gemma3Config(
        text_config={**CONFIG, "head_dim": 8},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
        },
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    names = resolve_target_modules(model, "all-linear")
    assert len(names) == 14
    assert all(".layers." in name and "vision" not in name for name in names)
    layer = model.get_submodule(names[0])
    layer.__class__ = type("Router", (torch.nn.Linear,), {})
    assert names[1:] == resolve_target_modules(model, "all-linear")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["q_proj", "q_porj"], r"no linear layer is named 'q_porj'. Did you mean 'q_proj'\?.*down_proj"),
        (["lm_head"], "no linear layer is named 'lm_head'"),
        ("q_proj", r"no linear layer matches 'q_proj'\. The nearest is|no linear layer matches 'q_proj'"),
        (r".*layers\.0\..*", r"also matches 'model\.layers\.0\.[a-z_]+', which is not a linear layer"),
        (r".*(lm_head|q_proj)", "also matches 'lm_head'"),
    ],
)
def test_target_modules_that_match_nothing_are_named_with_the_nearest(
    tiny_model: Path, wanted: Any, message: str
) -> None:
    model = load_frozen_model(tiny_model, Quantization("none", True, "float32"))
    with pytest.raises(UserError, match=message):
        add_adapter(model, Lora(target_modules=wanted), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "piss"}, r"train\.lora\.init is 'piss': expected one of default, loftq"),
        ({"loraplus_lr_ratio": 0.5}, r"train\.lora\.loraplus_lr_ratio"),
        ({"target_modules": "q_proj["}, r"train\.lora\.target_modules"),
        ({"target_modules": []}, r"train\.lora\.target_modules"),
        ({"svd_niter": -1}, r"train\.lora\.svd_niter"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**changes)


def test_loftq_needs_a_lossy_quantization() -> None:
    with pytest.raises(ValueError, match=r"train\.quantization is 'none'.*loftq"):
        TrainSettings(quantization="none", lora=Lora(init="loftq"))


# --- LoRA+


def test_loraplus_moves_b_by_its_ratio_of_the_first_step(packed: Path) -> None:
    from peft.optimizers import create_loraplus_optimizer

    lora = Lora(rank=4, alpha=8, loraplus_lr_ratio=8.0, dora=True)
    settings = TrainSettings(lora=lora, learning_rate=1e-3, weight_decay=0.01)
    model = add_adapter(
        load_frozen_model(packed / "models/base", Quantization("nf4", True, "float32")), lora, seed=0
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)  # else A has no gradient
    groups = parameter_groups(model, settings)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0)
    rates = [{id(p): g["lr"] for g in gs for p in g["params"]} for gs in (groups, theirs.param_groups)]
    assert rates[0] == rates[1]
    decayed = {p.ndim: g["weight_decay"] for g in groups for p in g["params"]}
    assert decayed == {2: 0.01, 1: 0.0}

    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    PackedModel(model)(**rows(packed)[0]).backward()
    torch.optim.AdamW([g | {"weight_decay": 0.0} for g in groups]).step()
    steps = {
        n: (p.detach() - before[n]).abs().median().item() for n, p in model.named_parameters() if n in before
    }
    assert len(steps) == 42
    for name, step in steps.items():  # Adam's first step is the learning rate
        assert step == pytest.approx(1e-3 if "lora_A" in name else 8e-3, rel=1e-2), name


def test_without_loraplus_all_matrices_are_one_group(tiny_model: Path) -> None:
    lora = Lora(rank=4)
    model = add_adapter(load_frozen_model(tiny_model, Quantization("nf4", True, "float32")), lora, seed=0)
    groups = parameter_groups(model, TrainSettings(lora=lora))
    assert [len(g["params"]) for g in groups] == [28]
    assert [p.data_ptr() for p in groups[0]["params"]] == [
        p.data_ptr() for p in model.parameters() if p.requires_grad
    ]


def test_training_applies_loraplus(place: Path) -> None:
    main(
        train_settings(
            init="loftq", loraplus_lr_ratio=8.0, max_steps=1, save_every=0, warmup=0.0, schedule="constant",
            learning_rate=1e-3, max_grad_norm=0.0,
        )
    )  # fmt: skip
    before, after = (load_file(ADAPTER / name) for name in (INITIAL_WEIGHTS, ADAPTER_WEIGHTS))
    for name, tensor in after.items():
        step = (tensor - before[name]).abs().median().item()
        assert step == pytest.approx(1e-3 if "lora_A" in name else 8e-3, rel=2e-2), name


# --- initialisations


def initialised(root: Path, lora: Lora, quantization: Quantization) -> Any:
    quantization = replace(quantization, initialisation=lora.init)
    base = root / "models/base"
    return add_adapter(load_frozen_model(base, quantization), lora, 0, base, quantization)


def errors(root: Path, model: Any) -> tuple[float, float]:
    """Squared Frobenius norm of W less what the layers are, over all layers with an adapter: with and without it."""
    file = load_file(root / "models/base/model.safetensors")
    with_, without = 0.0, 0.0
    for name, layer in lora_layers(model):
        weight = file[f"{name}.weight"].float()
        with_ += float((weight - layer.trained_weight()).square().sum())
        without += float((weight - dense_weight(layer.base_layer.weight, torch.float32)).square().sum())
    return with_, without


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_loftq_begins_nearer_to_full_precision(packed: Path, kind: str) -> None:
    quantization = Quantization(kind, True, "float32")
    plain, _ = errors(packed, initialised(packed, Lora(rank=4, alpha=8), quantization))
    for niter in (0, 8):
        lora = Lora(rank=4, alpha=12, init="loftq", svd_niter=niter)
        nearer, _ = errors(packed, initialised(packed, lora, quantization))
        assert nearer < 0.95 * plain, niter


def test_loftq_leaves_the_tail_of_what_was_lost_and_keeps_the_base(packed: Path) -> None:
    quantization = Quantization("nf4", True, "float32")
    model = initialised(packed, Lora(rank=4, alpha=12, init="loftq"), quantization)
    file = load_file(packed / "models/base/model.safetensors")
    for name, layer in lora_layers(model):
        weight = file[f"{name}.weight"].float()
        assert torch.equal(
            dense_weight(layer.base_layer.weight, torch.float32), round_trip(weight, quantization)
        )
        lost = torch.linalg.svdvals(weight - round_trip(weight, quantization))
        left = float((weight - layer.trained_weight()).square().sum())
        assert left == pytest.approx(float(lost[4:].square().sum()), rel=1e-4)


def test_a_rank_larger_than_a_layer_is_named(packed: Path) -> None:
    with pytest.raises(UserError, match=r"train\.lora\.rank is 40: .* is \(32, 64\)"):
        initialised(packed, Lora(rank=40, init="loftq"), Quantization("nf4", True, "float32"))


def test_int8_is_quantized_on_its_way_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes leaves a weight as it is that lies on the GPU already: LoftQ's residual would be zero."""
    import bitsandbytes.nn

    class OnGpu(torch.Tensor):
        """A tensor that says it is on a GPU until it is moved to the host."""

        def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            moved = torch.Tensor(self).to(*args, **kwargs)
            return moved if "cpu" in map(str, args) else moved.as_subclass(OnGpu)

    given: list[type] = []

    plain = bitsandbytes.nn.Int8Params

    def params(data: Any, **options: Any) -> Any:
        given.append(type(data))
        return plain(data, **options)

    weight = torch.randn(40, 48).as_subclass(OnGpu)
    monkeypatch.setattr(bitsandbytes.nn, "Int8Params", params)
    assert torch.Tensor(weight - round_trip(weight, Quantization("int8", True, "float32"))).abs().max() > 0
    assert given == [torch.Tensor]


# --- what is written, read again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "options"),
    [
        ("nf4", {"init": "loftq"}),
        ("int8", {"init": "loftq", "dora": True, "rslora": True}),
        ("fp4", {"init": "loftq", "svd_niter": 4, "target_modules": ["q_proj", "down_proj"]}),
        ("none", {"loraplus_lr_ratio": 4.0}),
    ],
    ids=str,
)
def test_a_killed_training_gives_the_same_bytes_and_rebuilds_to_the_same_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, options: dict[str, Any]
) -> None:
    settings = train_settings(
        quantization=quantization,
        dropout=0.1,
        max_steps=4,
        save_every=2,
        micro_batch=2,
        **options,
    )
    metrics = main(settings)
    assert metrics is not None
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]
    whole = sha256_folder(ADAPTER)
    rebuilt = PackedModel(load_trained(BASE_MODEL, ADAPTER))
    again = mean_loss(rebuilt, batch_packs(read_packs("data/packed/validation.arrow"), 2))
    assert again == pytest.approx(metrics["validation_loss_last"], rel=1e-6)  # norms of training are fused
    init = options.get("init", "default")
    assert (ADAPTER / INITIAL_WEIGHTS).exists() == (init == "loftq")
    assert json.loads((ADAPTER / "quantization.json").read_text("utf-8"))["initialisation"] == init

    shutil.rmtree(ADAPTER)
    ended = trainer.PackTrainer.end_step

    def end(self: Any) -> None:
        ended(self)
        if self.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.PackTrainer, "end_step", end)
        with pytest.raises(KeyboardInterrupt):
            main(settings)
    monkeypatch.setattr(
        "stages.train.lora_adapter.initialise", None
    )  # the checkpoint carries what was initialised
    main(settings)
    assert sha256_folder(ADAPTER) == whole


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}], ids=str)
def test_peft_computes_the_same_from_what_is_written(place: Path, options: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    main(train_settings(quantization="none", dtype="float32", max_steps=3, save_every=0, **options))
    base = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        before = base(ids).logits
        theirs = PeftModel.from_pretrained(base, str(ADAPTER))(ids).logits
        ours = logits(load_trained(BASE_MODEL, ADAPTER), ids)
    assert float((theirs - before).abs().max()) > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_over_a_changed_base_is_refused(init: str, tmp_path: Path) -> None:
    Quantization("nf4", True, "bfloat16", initialisation=init).save(tmp_path)
    with pytest.raises(UserError, match=f"quantization.json: {init} changed the base under the adapter"):
        Quantization.load(tmp_path)
