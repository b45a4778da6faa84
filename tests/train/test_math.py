"""What training computes: isolated documents, the loss of labelled tokens, gradients however a step is divided."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.core.errors import UserError
from stages.common.model.fused import fuse_norms
from stages.common.model.load import load_frozen_model
from stages.common.model.lora_matmul import LoraMatmul
from stages.common.model.loss import Head, HeadLoss, labelled_targets
from stages.common.model.packed_model import PackedModel, mean_loss
from stages.common.model.packs import IGNORED, flatten_packs, read_packs
from stages.common.model.quantize import Quantization
from stages.common.model.trained import lora_layers
from stages.train.lora_adapter import add_adapter
from stages.train.schedule import OrderedPacks, order_packs
from stages.train.settings import Lora
from stages.train.trainer import PackTrainer
from stages.train.training_curve import Curve
from tests.helpers.lora_gradients import LENGTHS, adapted_model, assert_close, gradients, pack
from tests.helpers.train_workplace import TRAIN, documents, train_settings, workplace


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # on tiny tensors threads only wait for each other


@pytest.fixture
def float32_model(tiny_model: Path) -> Any:
    return adapted_model(tiny_model)


def test_rows_of_several_packs_are_laid_end_to_end() -> None:
    row = flatten_packs([pack([3, 2]), pack([4])])
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert row["lengths"] == (3, 2, 4)
    assert row["input_ids"].shape == row["labels"].shape == (1, 9)


def test_loss_is_that_of_labelled_tokens_and_eos_is_one() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 8, requires_grad=True), torch.randn(50, 8)
    labels = torch.randint(0, 50, (1, 600))
    labels[0, :200] = IGNORED
    labels[0, 400:450] = IGNORED
    positions, targets = labelled_targets(labels)
    assert positions[0] == 199  # the token before the first label predicts it
    loss = HeadLoss.apply(hidden[positions], Head(weight), targets, True)
    loss.backward()
    ours, hidden.grad = hidden.grad, None
    logits = hidden @ weight.t()
    wanted = torch.nn.functional.cross_entropy(
        logits[:-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum"
    )
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours, hidden.grad)
    last = documents(1)
    assert last.tokens[-1] == 0  # EOS, and trained on: a token without loss is negative


def step_gradients(
    model: Any, root: Path, micro_batch: int, accumulation: int, **changes: Any
) -> list[torch.Tensor]:
    """Return the Trainer's gradients of the last optimizer step (the first, unless `changes` sets max_steps)."""
    changes = {"max_steps": 1, "save_every": 0, "max_grad_norm": 0.0, **changes}
    settings = train_settings(micro_batch=micro_batch, accumulation=accumulation, **changes).train
    packs = read_packs(root / "data/packed/train.arrow")
    planned = OrderedPacks(packs, order_packs(packs.tokens, settings))
    float32 = PackedModel(model)
    trainer = PackTrainer(float32, planned, settings, root / "scratch", Curve())
    seen: list[torch.Tensor] = []

    def keep() -> float:
        seen[:] = (p.grad.clone() for p in float32.parameters() if p.requires_grad)
        return 0.0

    trainer.clip_gradient = keep  # type: ignore[method-assign]
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.train()
    return seen


def test_gradients_do_not_depend_on_how_a_step_is_cut(
    float32_model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    root = workplace(tmp_path / "place", tiny_model)
    start = {n: p.detach().clone() for n, p in float32_model.named_parameters() if p.requires_grad}
    found = []
    for micro_batch, accumulation in ((4, 1), (1, 4), (3, 2)):
        for name, parameter in float32_model.named_parameters():
            if name in start:
                parameter.data.copy_(start[name])
        found.append(step_gradients(float32_model, root, micro_batch, accumulation))
    assert_close(found[0], found[1])
    different = [not torch.allclose(a, b, rtol=1e-2) for a, b in zip(found[0], found[2], strict=True)]
    assert any(different)  # six packs are not four


def test_step_gradient_is_that_of_the_mean_over_its_labelled_tokens(
    float32_model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    root = workplace(tmp_path / "place", tiny_model)
    stepped = step_gradients(float32_model, root, 1, 4)
    packs = read_packs(root / "data/packed/train.arrow")
    chosen = [packs[i] for i in order_packs(packs.tokens, TRAIN)[:4]]
    model = PackedModel(float32_model)
    row = flatten_packs(chosen)
    model.zero_grad()
    (model(**row) / len(labelled_targets(row["labels"])[1])).backward()
    assert_close(stepped, gradients(model))


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(1, 5), (3, 2)])
def test_a_last_step_that_is_not_full_is_the_mean_over_its_own_tokens(
    float32_model: Any, tiny_model: Path, tmp_path: Path, micro_batch: int, accumulation: int
) -> None:
    root = workplace(tmp_path / "place", tiny_model)
    changes = {"max_steps": 0, "epochs": 1.0}
    stepped = step_gradients(float32_model, root, micro_batch, accumulation, **changes)
    packs = read_packs(root / "data/packed/train.arrow")
    order = order_packs(packs.tokens, train_settings(**changes).train)
    left = len(order) % (micro_batch * accumulation)
    assert 0 < left < micro_batch * accumulation
    row, model = flatten_packs([packs[i] for i in order[-left:]]), PackedModel(float32_model)
    (model(**row) / len(labelled_targets(row["labels"])[1])).backward()
    assert_close(stepped, gradients(model))


def test_four_bit_layer_with_adapter_is_peft_s_own(tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model

    quantization = Quantization("nf4", True, "float32")
    row = flatten_packs([pack(LENGTHS)])
    results = []
    for ours in (True, False):
        model = load_frozen_model(tiny_model, quantization)
        torch.manual_seed(0)
        adapted = (
            add_adapter(model, Lora(rank=4, alpha=8), seed=0)
            if ours
            else get_peft_model(
                model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
            )
        )
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        packed = PackedModel(adapted).train()
        loss = packed(**row)
        loss.backward()
        results.append([loss.detach(), *gradients(packed)])
    assert_close(*results, tolerance=1e-4)


def test_evaluation_leaves_the_weights_as_training_had_them(tiny_model: Path) -> None:
    model = load_frozen_model(tiny_model, Quantization("nf4", True, "bfloat16"))
    packed = PackedModel(add_adapter(model, Lora(target_modules=["q_proj"], dropout=0.5), seed=0)).train()
    rows = [flatten_packs([pack(LENGTHS)])]
    with torch.no_grad():
        before = {n: p.clone() for n, p in packed.named_parameters()}
        losses = [mean_loss(packed, rows) for _ in range(2)]
        state = torch.random.get_rng_state()
        mean_loss(packed, rows)
    assert losses[0] == losses[1]  # no dropout
    assert torch.equal(
        state, torch.random.get_rng_state()
    )  # nothing drawn: the dropout of training is untouched
    assert packed.training
    assert all(torch.equal(p, before[n]) for n, p in packed.named_parameters())


def test_fused_norms_are_transformers_own(float32_model: Any) -> None:
    model = PackedModel(float32_model).train()
    row = flatten_packs([pack(LENGTHS)])
    results = []
    for count in (0, 5):
        if count:
            assert fuse_norms(float32_model) == count
        loss = model(**row)
        loss.backward()
        results.append([loss.detach(), *gradients(model)])
    assert_close(*results)


def test_order_of_packs_is_a_function_of_the_seed() -> None:
    from dataclasses import replace

    tokens = [10] * 50
    one = replace(TRAIN, epochs=2.0)
    order = order_packs(tokens, one)
    assert order == order_packs(tokens, one)
    assert order != order_packs(tokens, replace(one, seed=1))
    assert sorted(order[:50]) == sorted(order[50:]) == list(range(50))
    assert order[:50] != order[50:]
    assert order_packs(tokens, replace(one, epochs=0.5)) == order[:25]
    assert order_packs(tokens, replace(one, max_tokens=75)) == order[:7]
    assert order_packs(tokens, replace(one, max_steps=3, micro_batch=2, accumulation=4)) == order[:24]
    assert order_packs(tokens, replace(one, max_tokens=5)) == order[:1]


def test_a_document_whose_first_token_has_a_label_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"input_ids": [[1, 2, 3]], "labels": [[-100, 2, 3]], "lengths": [[1, 2]]})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    with pytest.raises(UserError, match=r"x\.arrow, pack 0: the first label"):
        read_packs(tmp_path / "x.arrow")[0]


def test_layers_that_read_one_input_compute_together(
    float32_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    apply = LoraMatmul.apply

    def counted(x: Any, dropped: Any, layers: Any, *adapters: Any) -> Any:
        calls.append(len(layers))
        return apply(x, dropped, layers, *adapters)

    monkeypatch.setattr(LoraMatmul, "apply", counted)
    model, row = PackedModel(float32_model), flatten_packs([pack(LENGTHS)])
    layers = model.causal.config.num_hidden_layers

    def found() -> tuple[list[torch.Tensor], list[int]]:
        model(**row).backward()
        seen = calls.copy()
        calls.clear()
        return gradients(float32_model), seen

    together, counts = found()
    assert counts == [3, 1, 2, 1] * layers  # q, k, v; o; gate, up; down
    adapted = [module for _, module in lora_layers(float32_model)]
    for layer in adapted:
        layer.shared = None
    alone, counts = found()
    assert counts == [1] * 7 * layers
    assert_close(together, alone)


def test_a_layer_never_returns_the_output_cached_for_another_input(float32_model: Any) -> None:
    attention = float32_model.get_base_model().model.layers[0].self_attn
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 5, attention.q_proj.in_features)

    def alone(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.trained_weight())

    with torch.no_grad():
        for layer, x in [("q", first), ("k", second), ("k", first), ("v", first), ("k", first.clone())]:
            module = attention.get_submodule(f"{layer}_proj")
            torch.testing.assert_close(module(x), alone(module, x))
        attention.q_proj(first)
        attention.k_proj.lora_dropout["default"] = torch.nn.Dropout(0.5).train()
        assert not attention.q_proj.shared.possible()
        attention.k_proj.lora_dropout["default"].eval()
        assert attention.q_proj.shared.possible()
