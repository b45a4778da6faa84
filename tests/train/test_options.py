"""Options of training: each computes what it promises; with each, an interrupted run ends with the same bytes."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.common.core.errors import UserError
from stages.common.core.files import sha256_folder
from stages.common.curve import CURVE_FILE, CurveRow
from stages.common.model.packs import flatten_packs
from stages.train.__main__ import ADAPTER, main
from stages.train.best import best_step, evaluated_steps, evaluations_since_improvement
from stages.train.checkpoints import CHECKPOINTS_FOLDER
from stages.train.neftune import EmbeddingNoise
from stages.train.optimizers import make_optimizer, make_scheduler
from stages.train.schedule import limiting_budget, order_packs
from stages.train.settings import OPTIMIZERS, TrainSettings
from tests.helpers.train_workplace import TRAIN, train_settings, write_packs

RATE, DECAY = 1e-2, 0.1


def rows() -> list[dict[str, str]]:
    with CURVE_FILE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Optimizers


def parameters() -> list[nn.Parameter]:
    """A matrix, large enough for 8-bit state, and a vector."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((64, 128), (64,))]


def gradient(step: int, like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(step)) * 1e-2


def stepped(name: str, steps: int = 3, **changes: Any) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """The parameters after some steps on the gradients of `gradient`."""
    settings = replace(TRAIN, optimizer=name, learning_rate=RATE, weight_decay=DECAY, **changes)
    found = parameters()
    optimizer = make_optimizer(settings, [{"params": found}])
    for step in range(steps):
        for parameter in found:
            parameter.grad = gradient(step, parameter)
        optimizer.step()
    return found, optimizer


def adamw(
    p: torch.Tensor, steps: int = 3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> torch.Tensor:
    p = p.detach().double()
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for step in range(steps):
        g = gradient(step, p).double()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        unit = (m / (1 - b1 ** (step + 1))) / ((v / (1 - b2 ** (step + 1))).sqrt() + eps)
        p = p - RATE * DECAY * p - RATE * unit
    return p


def lion(p: torch.Tensor) -> torch.Tensor:
    p, m = p.detach().double(), torch.zeros(p.shape, dtype=torch.float64)
    for step in range(3):
        g = gradient(step, p).double()
        p = p - RATE * DECAY * p - RATE * torch.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    return p


def adafactor(p: torch.Tensor) -> torch.Tensor:
    """arXiv:1804.04235, algorithm 5, with the update clipped at root mean square 1 and a rate from outside."""
    p = p.detach().double()
    row, column, whole = (torch.zeros(1, dtype=torch.float64) for _ in range(3))
    for step in range(3):
        g = gradient(step, p).double()
        beta, square = 1 - (step + 1) ** -0.8, g**2 + 1e-30
        if p.ndim == 2:
            row = beta * row + (1 - beta) * square.sum(1)
            column = beta * column + (1 - beta) * square.sum(0)
            v = torch.outer(row, column) / row.sum()
        else:
            v = whole = beta * whole + (1 - beta) * square
        unit = g / v.sqrt()
        unit = unit / max(1.0, float(unit.square().mean().sqrt()))
        p = p - RATE * DECAY * p - RATE * unit
    return p


@pytest.mark.parametrize(
    ("name", "formula"),
    [("adamw", adamw), ("paged_adamw", adamw), ("lion", lion), ("adafactor", adafactor)],
)
def test_an_optimizer_computes_the_formula_of_its_paper(name: str, formula: Any) -> None:
    for got, start in zip(stepped(name)[0], parameters(), strict=True):
        torch.testing.assert_close(got.detach().double(), formula(start), rtol=1e-5, atol=1e-6)


def test_constants_of_adam_are_those_of_the_settings() -> None:
    for name in ("adamw", "paged_adamw"):
        got = stepped(name, adam_beta1=0.5, adam_beta2=0.9, adam_epsilon=1e-2)[0][0].detach().double()
        torch.testing.assert_close(got, adamw(parameters()[0], 3, 0.5, 0.9, 1e-2), rtol=1e-5, atol=1e-6)


def test_adamw_in_8_bits_has_a_quarter_of_the_state_and_nearly_the_update() -> None:
    (matrix, vector), optimizer = stepped("adamw_8bit")
    start = parameters()
    state = optimizer.state[matrix]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    assert optimizer.state[vector]["state1"].dtype == torch.float32  # under 4,096 values
    wanted = adamw(start[0]) - start[0].double()
    error = (matrix.detach().double() - start[0].double() - wanted).norm() / wanted.norm()
    assert 0 < error < 0.03
    torch.testing.assert_close(vector.detach().double(), adamw(start[1]), rtol=1e-5, atol=1e-6)


def test_without_cuda_a_paged_optimizer_says_so_and_computes_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if torch.cuda.is_available():
        pytest.skip("pages")
    assert torch.equal(stepped("adamw_8bit")[0][0], stepped("paged_adamw_8bit")[0][0])
    assert "paged_adamw_8bit pages nothing without CUDA; it computes the same" in capsys.readouterr().out


def test_a_paged_optimizer_pages_what_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes loads states into tensors of its own; here each goes into a buffer that the optimizer pages."""
    _, before = stepped("paged_adamw_8bit")
    state = before.state_dict()
    _, after = stepped("paged_adamw_8bit", steps=0)
    buffers: list[torch.Tensor] = []
    buffer = type(after).get_state_buffer

    def counted(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        buffers.append(buffer(self, *arguments, **options))
        return buffers[-1]

    monkeypatch.setattr(type(after), "get_state_buffer", counted)
    after.load_state_dict(state)
    held = [s[key] for s in after.state.values() for key in ("state1", "state2")]
    assert [id(t) for t in held] == [id(t) for t in buffers]
    assert all(
        map(torch.equal, held, (s[key] for s in before.state.values() for key in ("state1", "state2")))
    )


def test_muon_orthogonalizes_the_update_of_a_matrix_and_leaves_vectors_to_adamw() -> None:
    (matrix, vector), _ = stepped("muon", steps=1)
    start = parameters()
    update = (start[0] * (1 - RATE * DECAY) - matrix) / RATE
    u, _, v = torch.linalg.svd(gradient(0, start[0]), full_matrices=False)
    values = torch.linalg.svdvals(update) / (0.2 * math.sqrt(128))
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.cosine_similarity(update.flatten(), (u @ v).flatten(), dim=0) > 0.97
    assert 0.15 < update.square().mean().sqrt() < 0.25  # AdamW's usual size
    torch.testing.assert_close(vector.detach().double(), adamw(start[1], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_apart_from_the_gradient_and_its_group_s(name: str) -> None:
    settings = replace(TRAIN, optimizer=name, learning_rate=RATE, weight_decay=DECAY)
    found, start = parameters(), parameters()
    groups: list[dict[str, Any]] = [{"params": found[:1]}, {"params": found[1:], "weight_decay": 0.0}]
    optimizer = make_optimizer(settings, groups)
    for parameter in found:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(found[0].data, start[0].data * (1 - RATE * DECAY), rtol=1e-6, atol=0)
    assert torch.equal(found[1], start[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_has_a_learning_rate_of_its_own_that_the_schedule_scales(name: str) -> None:
    settings = replace(TRAIN, optimizer=name, learning_rate=RATE, schedule="linear", warmup=0.0)
    found = [nn.Parameter(torch.ones(64, 64)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": found[:1]}, {"params": found[1:], "lr": 4 * RATE}]
    optimizer = make_optimizer(settings, groups)
    scheduler = make_scheduler(settings, optimizer, 4)
    sizes = []
    for _ in range(4):
        before = [p.detach().clone() for p in found]
        for parameter in found:
            parameter.grad = gradient(0, parameter)  # the same, so that every update but for its rate is
        optimizer.step()
        scheduler.step()
        sizes.append([float((p.detach() - b).norm()) for p, b in zip(found, before, strict=True)])
    assert all(fast == pytest.approx(4 * slow, rel=0.02) for slow, fast in sizes)
    assert sizes[3][0] == pytest.approx(sizes[0][0] / 4, rel=0.05)


# Schedules


def rates(steps: int, **changes: Any) -> list[float]:
    """Shares of the peak at each of the steps."""
    settings = replace(TRAIN, learning_rate=RATE, **changes)
    optimizer = make_optimizer(settings, [{"params": [nn.Parameter(torch.zeros(2))]}])
    scheduler = make_scheduler(settings, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        scheduler.step()
    return found


def test_rates_of_each_schedule_at_chosen_steps() -> None:
    cosine = rates(20, schedule="cosine", warmup=0.2, min_learning_rate=0.1)
    assert cosine[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])  # 4 of 20 steps
    assert cosine[12] == pytest.approx(0.55)  # half of the way
    assert cosine[19] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert rates(20, schedule="cosine", warmup=0.0)[10] == pytest.approx(0.5)
    linear = rates(20, schedule="linear", warmup=0.0, min_learning_rate=0.2)
    assert linear == pytest.approx([1 - 0.8 * step / 20 for step in range(20)])
    constant = rates(20, schedule="constant", warmup=0.1)
    assert constant == pytest.approx([0, 0.5, *[1] * 18])
    wsd = rates(20, schedule="wsd", warmup=0.1, decay=0.25, min_learning_rate=0.1)
    assert wsd[:3] == pytest.approx([0.1, 0.55, 1])
    assert wsd[2:16] == [1] * 14  # 2 of warmup, 13 of peak, 5 of decay: the first of these is at the peak
    assert wsd[16:] == pytest.approx([0.1 + 0.9 * (1 - math.sqrt(step / 5)) for step in range(1, 5)])


def test_warmup_in_steps_is_the_share_of_as_many(place: Path) -> None:
    steps = rates(50, warmup=0.0, warmup_steps=5)
    assert steps == rates(50, warmup=0.1)
    assert steps[5] == 1 > steps[4]
    assert rates(1, warmup=0.5) == [1]  # the only step is no warmup, or nothing would be learned
    assert rates(100, warmup=0.07)[7] == 1 > rates(100, warmup=0.07)[6]
    shutil.rmtree("models")
    with pytest.raises(UserError, match=r"train\.warmup_steps is 16 and the training has 16 steps"):
        main(train_settings(warmup=0.0, warmup_steps=16))


# NEFTune


def noisy(alpha: float, lengths: tuple[int, ...], size: int = 64, seed: int = 0) -> torch.Tensor:
    """The noise that a row of documents gets, (tokens, size)."""
    embeddings = nn.Embedding(4, size).train()
    nn.init.zeros_(embeddings.weight)
    noise = EmbeddingNoise(embeddings, alpha)
    noise.lengths = lengths
    torch.manual_seed(seed)
    return embeddings(torch.zeros(1, sum(lengths), dtype=torch.long))[0].detach()


def test_noise_is_that_of_transformers_for_a_row_of_one_document_and_no_less_in_a_pack() -> None:
    from transformers.integrations.neftune import neftune_post_forward_hook

    theirs = nn.Embedding(4, 64).train()
    nn.init.zeros_(theirs.weight)
    theirs.neftune_noise_alpha = 5.0  # type: ignore[assignment]
    theirs.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(0)
    alone = theirs(torch.zeros(1, 40, dtype=torch.long))[0].detach()
    torch.testing.assert_close(noisy(5.0, (40,)), alone, rtol=1e-4, atol=1e-6)

    packed = noisy(5.0, (40, 640, 10))
    for at, length in ((0, 40), (40, 640), (680, 10)):
        bound = 5.0 / math.sqrt(length * 64)
        part = packed[at : at + length]
        assert 0.97 * bound < part.abs().max() <= bound
        assert float(part.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)  # uniform
        assert abs(float(part.mean())) < 0.1 * bound
    whole_row = theirs(torch.zeros(1, 690, dtype=torch.long))[0]
    assert whole_row[:40].abs().max() < 0.25 * packed[:40].abs().max()  # sqrt(40 / 690)


def test_noise_is_added_in_training_only(place: Path) -> None:
    from stages.common.model.load import load_frozen_model
    from stages.common.model.packed_model import PackedModel, mean_loss
    from stages.common.model.quantize import Quantization

    model = PackedModel(load_frozen_model(Path("models/base"), Quantization("none", True, "float32")))
    row = flatten_packs([{"input_ids": list(range(1, 9)), "labels": [-100, *range(2, 9)], "lengths": [8]}])
    silent = mean_loss(model, [row])
    noise = EmbeddingNoise(model.causal.get_input_embeddings(), 5.0)
    noise.lengths = row["lengths"]
    assert mean_loss(model, [row]) == silent
    assert float(model.train()(**row).detach()) / 7 != pytest.approx(silent, rel=1e-4)
    main(train_settings(max_steps=2))
    without = sha256_folder(ADAPTER)
    main(train_settings(max_steps=2, neftune_alpha=5.0))
    assert sha256_folder(ADAPTER) != without


# Clipping and budgets


def test_the_gradient_is_clipped_and_the_curve_holds_its_norm_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.train import trainer

    seen: list[float] = []

    def watch(self: Any) -> None:
        found = [p.grad for p in self.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack([g.norm() for g in found]).norm()))
        original(self)

    original = trainer.PackTrainer.update
    monkeypatch.setattr(trainer.PackTrainer, "update", watch)
    main(train_settings(max_steps=3, max_grad_norm=0.0))
    free, recorded = list(seen), [float(row["grad_norm"]) for row in rows()[1:]]
    assert free == pytest.approx(recorded, rel=1e-5)
    limit = free[0] / 2
    seen.clear()
    main(train_settings(max_steps=3, max_grad_norm=limit))
    recorded = [float(row["grad_norm"]) for row in rows()[1:]]
    assert recorded[0] == pytest.approx(free[0], rel=1e-6)
    assert seen == pytest.approx([min(norm, limit) for norm in recorded], rel=1e-4)


def test_the_first_budget_that_is_reached_ends_the_training() -> None:
    tokens = [10] * 50
    two = replace(TRAIN, epochs=2.0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "epochs"),
        ({"max_steps": 100}, "epochs"),  # 100 packs either way: no limit but epochs
        ({"max_steps": 99}, "max_steps"),
        ({"max_tokens": 1000}, "epochs"),
        ({"max_tokens": 999}, "max_tokens"),
        ({"max_tokens": 985, "max_steps": 98}, "max_steps"),
        ({"max_tokens": 979, "max_steps": 98}, "max_tokens"),
        ({"max_steps": 12, "micro_batch": 2, "accumulation": 4}, "max_steps"),  # 96 packs
        ({"max_steps": 13, "micro_batch": 2, "accumulation": 4}, "epochs"),
    ]
    for changes, wanted in cases:
        assert limiting_budget(tokens, replace(two, **changes)) == wanted, changes
    assert len(order_packs(tokens, replace(two, max_tokens=979, max_steps=98))) == 97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"epochs": 0.5}, ("epochs", 4)),
        ({"epochs": 1.0, "micro_batch": 3, "accumulation": 2}, ("epochs", 2)),  # 6 packs and 2
        ({"max_steps": 3, "accumulation": 2}, ("max_steps", 3)),
        ({"max_tokens": 200}, ("max_tokens", None)),
    ],
)
def test_each_budget_ends_a_training(
    place: Path, changes: dict[str, Any], wanted: tuple[str, int | None]
) -> None:
    metrics = main(train_settings(save_every=0, **changes))
    reason, steps = wanted
    assert metrics["ended_by"] == reason
    assert metrics["kept_step"] == metrics["steps"] == int(rows()[-1]["step"])
    assert steps in (None, metrics["steps"])
    if reason == "max_tokens":
        assert 120 < metrics["tokens_trained"] <= 200
    assert (metrics["optimizer"], metrics["schedule"]) == ("adamw", "cosine")


# Validation losses


def curve_of(*losses: float | None) -> list[CurveRow]:
    """Rows of the steps 0, 1, 2 and on."""
    return [
        CurveRow(step, 0, 0.0, None, 0.0, None, None, validation_loss=loss)
        for step, loss in enumerate(losses)
    ]


def test_the_best_step_and_the_evaluations_since_an_improvement() -> None:
    curve = curve_of(0.5, 4.0, None, 3.0, 3.0, 3.05, 2.95)
    assert evaluated_steps(curve) == [
        (1, 4.0),
        (3, 3.0),
        (4, 3.0),
        (5, 3.05),
        (6, 2.95),
    ]  # not the untrained model
    assert [best_step(curve[:end]) for end in (1, 2, 4, 5, 7)] == [None, 1, 3, 3, 6]
    assert [evaluations_since_improvement(curve[:end], 0.0) for end in range(1, 8)] == [0, 0, 0, 0, 1, 2, 0]
    assert evaluations_since_improvement(curve, 0.1) == 3  # 2.95 is not lower than 3.0 by more than 0.1
    falling = curve_of(None, 3.0, 2.94, 2.88)
    assert [evaluations_since_improvement(falling[:end], 0.1) for end in (2, 3, 4)] == [0, 1, 0]  # added up


OVERSHOOTING: dict[str, Any] = {
    "schedule": "constant",
    "warmup": 0.0,
    "learning_rate": 0.1,
    "eval_every": 1,
    "epochs": 4.0,
}


@pytest.mark.slow
def test_early_stopping_keeps_the_adapter_of_the_lowest_validation_loss(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = main(train_settings(**OVERSHOOTING, early_stopping_patience=3, keep_best=True))
    kept, losses = sha256_folder(ADAPTER), [float(row["validation_loss"]) for row in rows()]
    assert metrics["ended_by"] == "early_stopping"
    assert f"stopped early after step {metrics['steps']}: 3 validation losses" in capsys.readouterr().out
    assert 4 <= metrics["steps"] < 32
    best = metrics["kept_step"]
    assert 1 <= best == metrics["steps"] - 3
    assert (
        metrics["validation_loss_kept"] == losses[best] == min(losses[1:]) < metrics["validation_loss_last"]
    )

    metrics = main(train_settings(**OVERSHOOTING, early_stopping_patience=3))
    assert (metrics["kept_step"], metrics["validation_loss_kept"]) == (best + 3, losses[-1])
    assert sha256_folder(ADAPTER) != kept
    main(train_settings(**OVERSHOOTING, max_steps=best))  # a constant rate: the same first steps
    assert sha256_folder(ADAPTER) == kept


def test_comparing_validation_losses_without_any_is_refused_before_loading(place: Path) -> None:
    write_packs(Path("data/packed/validation.arrow"), 0)
    shutil.rmtree("models")
    for asked in ({"keep_best": True}, {"early_stopping_patience": 2}):
        key = next(iter(asked))
        with pytest.raises(UserError, match=rf"train\.{key} compares .*validation\.arrow has no packs"):
            main(train_settings(eval_every=1, **asked))


# Exactness


COMBINED: list[dict[str, Any]] = [
    {
        "optimizer": "adamw_8bit",
        "min_learning_rate": 0.1,
        "rank": 128,
        "neftune_alpha": 5.0,
        "loraplus_lr_ratio": 4.0,
        "max_steps": 8,
    },
    {"optimizer": "paged_adamw", "schedule": "wsd", "accumulation": 2, "dropout": 0.1},
    {"optimizer": "muon", "schedule": "linear", "weight_decay": 0.1, "dora": True, "max_steps": 8},
    {"optimizer": "adafactor", "schedule": "constant", "warmup": 0.0, "warmup_steps": 3, "max_steps": 8},
    {"optimizer": "lion", "learning_rate": 5e-3, "max_tokens": 500, "eval_every": 2, "keep_best": True},
    {**OVERSHOOTING, "early_stopping_patience": 3, "keep_best": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", COMBINED, ids=lambda options: str(options.get("optimizer", "early")))
def test_an_interrupted_and_resumed_training_gives_the_same_bytes(
    place: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.train import trainer

    settings = train_settings(**options)
    whole = main(settings)
    adapter, curve = sha256_folder(ADAPTER), rows()
    assert whole["train_loss_last"] < whole["validation_loss_first"]  # it learned
    places = ["end", whole["steps"], 4]  # after training; after the last step; in the middle

    def interrupted(name: str) -> Any:
        original = getattr(trainer.PackTrainer, name)

        def call(self: Any) -> None:
            original(self)
            if places and places[-1] == ("end" if name == "finish" else self.step):
                places.pop()
                raise KeyboardInterrupt

        return call

    for name in ("end_step", "finish"):
        monkeypatch.setattr(trainer.PackTrainer, name, interrupted(name))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            main(settings)
        assert list(CHECKPOINTS_FOLDER.glob("*/checkpoint-*"))
    resumed = main(settings)
    assert sha256_folder(ADAPTER) == adapter
    assert rows() == curve
    assert {**resumed, "times": {}} == {**whole, "times": {}}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_values_that_are_not_finite_never_reach_the_optimizer_and_the_last_checkpoint_is_good(
    place: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.common.model.packed_model import PackedModel
    from stages.train import trainer

    settings = train_settings(max_steps=6, accumulation=2, neftune_alpha=5.0)
    main(settings)
    adapter, calls, stepped = sha256_folder(ADAPTER), [0], [0]
    shutil.rmtree(ADAPTER)
    forward, before_step = PackedModel.forward, trainer.PackTrainer.update

    def spoiled(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        summed = forward(self, *arguments, **options)
        calls[0] += self.training
        if calls[0] != 9:  # the first micro batch of step 5
            return summed
        if what == "loss":
            return summed * float("nan")
        summed.register_hook(lambda flowing: flowing * float("inf"))
        return summed

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        before_step(self, *arguments, **options)
        stepped[0] += 1

    monkeypatch.setattr(PackedModel, "forward", spoiled)
    monkeypatch.setattr(trainer.PackTrainer, "update", counted)
    with pytest.raises(UserError, match=f"step 5: the {what} is not finite.*The last checkpoint stays in"):
        main(settings)
    assert stepped == [4]
    assert not ADAPTER.exists()
    assert [path.name for path in CHECKPOINTS_FOLDER.glob("*/checkpoint-*")] == ["checkpoint-3"]
    monkeypatch.setattr(PackedModel, "forward", forward)
    main(settings)
    assert sha256_folder(ADAPTER) == adapter


def test_weights_that_are_not_finite_are_never_saved(place: Path) -> None:
    write_packs(Path("data/packed/validation.arrow"), 0)  # nothing else looks at them
    message = r"step 1: the adapter's weights are not finite.*no adapter was written"
    for steps, save_every in ((1, 0), (3, 1)):  # found at the end, and before a checkpoint
        with pytest.raises(UserError, match=message):
            main(train_settings(learning_rate=1e39, warmup=0.0, max_steps=steps, save_every=save_every))
        assert not ADAPTER.exists()
        assert not list(CHECKPOINTS_FOLDER.glob("*/checkpoint-*"))


def test_a_base_that_gives_no_finite_values_is_blamed_before_any_step(place: Path) -> None:
    path = Path("models/base/model.safetensors")
    tensors = load_file(path)
    tensors["model.norm.weight"][:] = float("nan")
    path.unlink()  # may be a link to the model of all tests
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="gives values that are not finite: its weights hold NaN") as error:
        main(train_settings(max_steps=2))
    assert "learning_rate" not in str(error.value)


def test_a_validation_loss_that_is_not_finite_ends_the_training(place: Path) -> None:
    with pytest.raises(UserError, match="step 1: the validation loss is not finite"):
        main(train_settings(learning_rate=1e30, warmup=0.0, max_steps=1, save_every=1))
    assert not ADAPTER.exists()
    assert not list(CHECKPOINTS_FOLDER.glob("*/checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw8bit"}, r"train\.optimizer is 'adamw8bit': expected one of adamw, adamw_8bit"),
        ({"schedule": "cosin"}, r"train\.schedule is 'cosin': expected one of cosine, linear, constant, wsd"),
        (
            {"warmup": 0.03, "warmup_steps": 100},
            r"train\.warmup is 0\.03: expected 0 where train\.warmup_steps",
        ),
        ({"min_learning_rate": 1.0}, r"train\.min_learning_rate is 1\.0: expected a number in \[0, 1\)"),
        (
            {"min_learning_rate": 0.1, "schedule": "constant"},
            r"train\.min_learning_rate is 0\.1: expected 0 with",
        ),
        ({"schedule": "wsd", "warmup": 0.5, "decay": 0.6}, r"train\.decay is 0\.6"),
        (
            {"optimizer": "lion", "adam_beta2": 0.95},
            r"train\.adam_beta2 is 0\.95: expected 0\.999: train\.opt",
        ),
        ({"neftune_alpha": -1.0}, r"train\.neftune_alpha is -1\.0: expected 0 or more"),
        ({"keep_best": True}, r"train\.eval_every is 0: expected at least 1 with train\.keep_best"),
        ({"early_stopping_patience": 1}, r"train\.eval_every is 0: expected at least 1 with"),
    ],
)
def test_an_impossible_setting_is_named_with_possible_ones(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**changes)


# float16


def test_float16_trains_without_losing_a_step_to_an_overflow_and_resumes_with_its_scale(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of bfloat16, nearly its losses; the first scale is far too large here, and is lowered."""
    from stages.train import loss_scale, trainer

    main(train_settings(max_steps=6))
    wide = [float(row["loss"]) for row in rows()[1:]]
    monkeypatch.setattr("stages.common.model.checks.refuse_dtype", lambda dtype: None)
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**40)
    scales: list[float] = []

    def watch(self: Any) -> None:
        scales.append(self.scale.value)
        original(self)

    original = trainer.PackTrainer.end_step
    monkeypatch.setattr(trainer.PackTrainer, "end_step", watch)
    metrics = main(train_settings(dtype="float16", max_steps=6))
    whole = sha256_folder(ADAPTER)
    assert metrics["steps"] == 6
    assert 1 < scales[0] < 2.0**40
    assert [float(row["loss"]) for row in rows()[1:]] == pytest.approx(wide, rel=0.02)

    def interrupt(self: Any) -> None:
        original(self)
        if self.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.PackTrainer, "end_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(train_settings(dtype="float16", max_steps=6))
    monkeypatch.setattr(trainer.PackTrainer, "end_step", watch)
    first = scales[0]
    scales.clear()
    main(train_settings(dtype="float16", max_steps=6))
    assert scales[0] <= first  # not begun anew, from 2^40 down
    assert len(scales) == 3  # steps 4 to 6
    assert sha256_folder(ADAPTER) == whole


def test_a_loss_scale_halves_at_an_overflow_and_grows_after_many_steps() -> None:
    from stages.train.loss_scale import FIRST, RAISED_AFTER, LossScale

    scale = LossScale.of("float16")
    assert scale.lower()
    assert scale.value == FIRST / 2
    for _ in range(RAISED_AFTER):
        scale.count_step()
    assert scale.value == FIRST
    assert not LossScale.of("bfloat16").lower()


def test_float16_is_refused_without_a_gpu(place: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("trains")
    with pytest.raises(UserError, match="dtype=float16 trains on CUDA GPUs only"):
        main(train_settings(dtype="float16"))
