"""The plan: what a configuration will take and what is odd about it, before anything is spent."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from stages.common.core.errors import UserError
from stages.common.core.files import write_json, write_metrics, write_parquet
from stages.common.engine import EngineSettings
from stages.common.model.packs import read_packs
from stages.common.model.shapes import linear_shapes, training_flops
from stages.common.rows.schema import row_schema
from stages.common.text.settings import PromptSettings
from stages.config.compose import compose_config
from stages.pack.settings import PackSettings
from stages.plan.__main__ import main, make_plan
from stages.plan.advice import ALL_ADVICE, find_warnings
from stages.plan.data_estimate import (
    TrainingData,
    estimate_data,
    heaviest_batch,
    pack_columns,
    shorten_lengths,
)
from stages.plan.device import measure_product_rate
from stages.plan.memory import (
    Batch,
    activation_bytes,
    adapter_parameters,
    attention_pairs,
    memory_parts,
    required_bytes,
    weight_bytes,
)
from stages.plan.model_config import load_base_config
from stages.plan.quantities import CHANGE, RunFacts
from stages.plan.spending import operations_per_token, reached_share, training_seconds
from stages.plan.table import approximate_duration, render_plan
from stages.train.settings import Lora, TrainSettings
from tests.helpers.tiny_project import REPOSITORY, generated_functions

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 640,
}


def test_operations_equal_pytorchs_count() -> None:
    """One document of one layer's shapes: PyTorch's own counter over the same products, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens, rank = 12, 4
    with FlopCounterMode(display=False) as counter:
        for inputs, outputs in linear_shapes(TINY).values():
            x = torch.randn(tokens, inputs, requires_grad=True)
            a = torch.randn(rank, inputs, requires_grad=True)
            b = torch.randn(outputs, rank, requires_grad=True)
            (x @ torch.randn(outputs, inputs).T + (x @ a.T) @ b.T).sum().backward()
    counted = TINY["num_hidden_layers"] * counter.get_total_flops()
    attention = 2 * 3 * 4 * 64 * tokens * (tokens + 1) / 2
    assert training_flops(TINY, [tokens], 0, rank) == counted + attention


def test_head_operations_count_labelled_tokens_and_attention_counts_documents() -> None:
    whole, apart = training_flops(TINY, [100], 0, 0), training_flops(TINY, [50, 50], 0, 0)
    assert whole - apart == 2 * 3 * 4 * 64 * (100 * 101 - 2 * 50 * 51) / 2
    assert training_flops(TINY, [100], 10, 0) - whole == 4 * 10 * 64 * 640
    some = training_flops(TINY, [100], 0, 8, ["q_proj"])
    assert some - whole == 2 * 6 * 100 * 8 * (64 + 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 64}, "lacks num_hidden_layers"),
        ({**TINY, "num_local_experts": 8}, "num_local_experts"),
    ],
)
def test_unknown_shapes_are_named(config: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_flops(config, [10], 1, 4)


FINE = RunFacts(
    rows_in=20_000,
    rows=19_000,
    overlong="drop",
    overlong_rows=0,
    overlong_dropped=0,
    tokens_lost=0,
    max_length=2048,
    context=4096,
    utilisation=0.97,
    packs=9_000,
    packs_per_step=8,
    steps=2_000,
    warmup_steps=60,
    epochs=2.0,
    validation_rows=1_000,
    validation_share=0.05,
    early_stopping=False,
    rank=16,
    alpha=32,
    rslora=False,
    learning_rate=2e-4,
    optimizer="paged_adamw",
    dtype="bfloat16",
    attention="flash",
    gradient_checkpointing=False,
    device="cuda",
    bf16=True,
    memory=24 << 30,
    memory_name="GPU memory",
    needed=10 << 30,
    needed_plain=10 << 30,
    needed_checkpointed=6 << 30,
    disk=100 << 30,
    disk_needed=30 << 30,
    hours=3.0,
)


ADVICE = ("Set ", "Lower ", "Raise ", "Hold out ", "Free ", "Use ", " would ")


def test_a_sound_run_has_no_warning() -> None:
    assert find_warnings(FINE) == {}


@pytest.mark.parametrize(
    ("name", "still_fine", "warned", "message"),
    [
        ("warmup", {"warmup_steps": 200}, {"warmup_steps": 201}, "201 warmup steps are 10% of the 2000 steps, about a tenth"),
        ("warmup", {"warmup_steps": 1, "steps": 50}, {"warmup_steps": 100, "steps": 364}, "27% of the 364 steps, about a third of the run"),
        ("validation", {"validation_rows": 28}, {"validation_rows": 27}, "Hold out 28 rows or more"),
        ("validation", {"validation_rows": 400}, {"validation_rows": 20}, "20 validation rows cannot support early stopping"),
        (
            "validation",
            {},
            {"validation_rows": 0, "validation_share": 0.0},
            "Set pack.validation_share=0.05",
        ),
        ("validation", {}, {"validation_rows": 0}, "although pack.validation_share=0.05"),
        ("overlong", {}, {"overlong_rows": 1, "tokens_lost": 2049}, "1 of 20000 rows over 2048 tokens (prompt format included) are lost"),
        ("overlong", {}, {"overlong_rows": 9, "overlong": "truncate"}, "are cut"),
        ("scale", {"alpha": 16}, {"alpha": 15.9}, "Set train.lora.alpha=32"),
        ("scale", {"alpha": 64}, {"alpha": 65}, "the usual 2"),
        ("scale", {"alpha": 16, "rank": 256, "rslora": True}, {"alpha": 16, "rank": 32}, "16/32 = 0.5: the update is scaled to a quarter of the usual 2"),
        ("learning_rate", {"learning_rate": 5e-5}, {"learning_rate": 4e-5}, "below"),
        ("learning_rate", {"learning_rate": 1e-3}, {"learning_rate": 2e-3}, "above"),
        ("few_steps", {"steps": 50, "warmup_steps": 2}, {"steps": 49, "warmup_steps": 2}, "only 49 optimizer steps"),
        ("epochs", {"epochs": 3.0, "rows": 2000}, {"epochs": 3.0, "rows": 1999}, "3 passes over 1999 rows"),
        ("epochs", {"epochs": 2.0, "rows": 900}, {"epochs": 2.5, "rows": 900}, "2.5 passes over 900 rows"),
        ("batch", {"packs": 8}, {"packs": 7}, "takes 8 packs, but there are only 7"),
        ("packing", {"utilisation": 0.85}, {"utilisation": 0.84}, "84% full"),
        ("memory", {"needed": 21 << 30}, {"needed": 22 << 30}, "gradient_checkpointing=true, which lowers it to 6.0 GiB"),
        ("memory", {"needed": 21 << 30}, {"needed": 30 << 30, "needed_checkpointed": 23 << 30}, "Lower train.micro_batch"),
        ("checkpointing", {"gradient_checkpointing": True, "needed_plain": 22 << 30}, {"gradient_checkpointing": True, "needed_plain": 21 << 30}, "not needed"),
        ("disk", {"disk_needed": 90 << 30}, {"disk_needed": 91 << 30}, "97.7 GB"),
        ("duration", {"hours": 24.0}, {"hours": 36.0}, "1.5 days"),
        ("bfloat16", {"bf16": False, "dtype": "float32"}, {"bf16": False}, "train.dtype=float32"),
        ("attention", {"device": "cpu", "attention": "auto", "optimizer": "adamw"}, {"device": "cpu"}, "train.attention=auto"),
        ("optimizer", {"device": "cpu", "attention": "auto", "optimizer": "adamw"}, {"device": "cpu"}, "train.optimizer=adamw"),
    ],
)  # fmt: skip
def test_each_warning_appears_only_beyond_its_threshold(
    name: str, still_fine: dict[str, Any], warned: dict[str, Any], message: str
) -> None:
    assert find_warnings(replace(FINE, **still_fine)) == {}
    found = find_warnings(replace(FINE, **warned))
    assert message in found[name]
    assert any(word in found[name] for word in ADVICE), "the warning must say what to do"


def test_every_warning_is_tested_at_its_threshold() -> None:
    (cases,) = [
        m for m in test_each_warning_appears_only_beyond_its_threshold.pytestmark if m.name == "parametrize"
    ]
    assert {f"{case[0]}_advice" for case in cases.args[1]} == {advice.__name__ for advice in ALL_ADVICE}


def test_the_error_of_a_change_falls_with_the_square_root_of_the_rows() -> None:
    assert replace(FINE, validation_rows=100).change_error == pytest.approx(CHANGE / 10)
    assert (
        "or the choice of a checkpoint"
        in find_warnings(replace(FINE, validation_rows=20, early_stopping=True))["validation"]
    )


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def tutorial() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return make_plan(compose_config("experiment=tutorial"), {}, calibration=0.0)


def test_the_tutorial_is_the_published_configuration(repository: None) -> None:
    sections = compose_config("experiment=tutorial")
    train, pack = sections["train"], sections["pack"]
    assert sections["base"].name == "codellama/CodeLlama-7b-hf"
    assert [source.repo for source in sections["fetch"].sources] == ["mlabonne/Evol-Instruct-Python-1k"]
    assert (sections["prompt"].style, pack.max_length, pack.validation_share) == ("alpaca", 2048, 0.02)
    lora = train.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (32, 16, 0.05, "all-linear")
    assert (train.quantization, train.dtype, train.gradient_checkpointing) == ("nf4", "bfloat16", True)
    assert (train.micro_batch, train.accumulation, train.epochs) == (2, 4, 3.0)
    assert (train.optimizer, train.schedule, train.learning_rate) == ("paged_adamw", "cosine", 2e-4)
    assert (train.warmup_steps, train.warmup, train.attention) == (100, 0, "flash")
    assert (train.max_tokens, train.max_steps) == (0, 0)


@pytest.mark.slow
def test_the_plan_finds_the_faults_of_the_tutorial(tutorial: Any) -> None:
    found, facts = tutorial.warnings, tutorial.facts
    assert tutorial.data.origin == "stand-ins"
    assert 0.25 < facts.warmup_share < 0.4
    assert "100 warmup steps" in found["warmup"]
    assert "about a third of the run" in found["warmup"]
    assert "20 validation rows cannot support early stopping" in found["validation"]
    assert (
        f"{facts.overlong_rows} of 1000 rows over 2048 tokens (prompt format included) are lost"
        in found["overlong"]
    )
    assert facts.overlong_rows > 0
    assert "0.5: the update is scaled to a quarter of the usual 2" in found["scale"]


def test_the_tutorials_base_takes_the_memory_of_a_7b_model_in_4_bits(tutorial: Any) -> None:
    """6.74 billion parameters; 3.6 GB in NF4 with embeddings and head in 16 bits; rank 32 on all linear
    layers: 80 million.
    """
    config = load_base_config(composed_base("codellama/CodeLlama-7b-hf"), is_here=False)[0]
    assert weight_bytes(config, "none", False, "bfloat16") / 2 == pytest.approx(6.74e9, rel=0.001)
    assert tutorial.memory["base weights (nf4)"] / 1e9 == pytest.approx(3.87, rel=0.01)
    assert adapter_parameters(config, Lora(rank=32, alpha=16)) == 79_953_920
    assert tutorial.memory["optimizer state"] == 8 * 79_953_920


def composed_base(name: str) -> Any:
    return SimpleNamespace(kind="hub", name=name, revision="0" * 40, path="")


def test_the_table_and_the_json_are_readable(tutorial: Any, repository: None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:  # fmt: skip
    text = render_plan(tutorial)
    joined = " ".join(text.split())
    assert "codellama/CodeLlama-7b-hf" in text
    assert "stand-in rows" in joined
    assert all(" ".join(message.split()) in joined for message in tutorial.warnings.values())
    assert all(len(line) <= 100 for line in text.splitlines())
    monkeypatch.setattr("stages.plan.__main__.make_plan", lambda sections, tracked: tutorial)
    main(["experiment=tutorial", "--json"])
    read = json.loads(capsys.readouterr().out)
    assert read["warnings"] == tutorial.warnings
    assert read["facts"]["steps"] == tutorial.facts.steps
    assert required_bytes(read["memory"]) == tutorial.facts.needed


def test_an_unknown_key_ends_the_command_with_one_line(repository: None, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["train.lora.rnak=8"])
    assert "Did you mean 'train.lora.rank'?" in capsys.readouterr().err


@pytest.fixture
def packed_rows(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with models/base, data/clean and data/packed of the same sections, which are given back."""
    from stages.pack.__main__ import main as pack_stage

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models/base")
    fixed = {"source": "s", "licence": "MIT", "messages": None, "tests": None, "metadata": "{}"}
    functions = [*generated_functions(59), {"prompt": "def f():", "completion": "    x = 1\n" * 60}]
    ids = [f"{number:08x}" for number in range(60)]
    rows = [{**fixed, "id": name, "component": name, **row} for name, row in zip(ids, functions, strict=True)]
    schema = row_schema().append(pa.field("component", pa.string(), nullable=False))
    write_parquet("data/clean/rows.parquet", pa.Table.from_pylist(rows, schema=schema))
    pack, prompt = PackSettings(max_length=160, validation_share=0.2), PromptSettings()
    pack_stage(SimpleNamespace(pack=pack, prompt=prompt, engine=EngineSettings(workers=1)))  # type: ignore[arg-type]
    # any dataclass will do: these sections are compared, not read
    others = {name: Lora() for name in ("base", "fetch", "clean")}
    return {"pack": pack, "prompt": prompt, **others}


def tracked_of(sections: dict[str, Any]) -> dict[str, Any]:
    return {name: asdict(section) for name, section in sections.items()}


def test_rows_packed_by_the_plan_equal_those_of_the_pack_stage(packed_rows: dict[str, Any]) -> None:
    tracked = tracked_of(packed_rows)
    counted = estimate_data(packed_rows, tracked)
    assert counted.origin == "packs"
    assert counted.overlong_rows == 1
    assert counted.pack_tokens.tolist() == read_packs("data/packed/train.arrow").tokens
    shutil.rmtree("data/packed")
    estimated = estimate_data(packed_rows, tracked)
    assert estimated.origin == "clean"
    for name in TrainingData.__dataclass_fields__:
        if name not in ("origin", "basis", "labelled_share"):
            assert list_of(getattr(estimated, name)) == list_of(getattr(counted, name)), name
    assert estimated.labelled_share == pytest.approx(counted.labelled_share, abs=1e-3)


def list_of(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def test_packs_of_another_configuration_are_not_counted(packed_rows: dict[str, Any]) -> None:
    tracked = tracked_of(packed_rows)
    longer = {**packed_rows, "pack": replace(packed_rows["pack"], max_length=240)}
    data = estimate_data(longer, tracked)
    assert data.origin == "clean"
    assert "belongs to another configuration (pack)" in data.basis
    assert data.pack_tokens.max() > 160
    # reports/config.yaml says 240, but data/packed was packed with 160
    by_hand = estimate_data(longer, tracked_of(longer))
    assert by_hand.origin == "clean"
    other = {**packed_rows, "fetch": SimpleFetch("nobody/knows")}
    with pytest.raises(UserError, match="dvc repro clean"):
        estimate_data(other, tracked)


class SimpleFetch(Lora):
    """A section that differs, with one source of the hub."""

    def __init__(self, repo: str) -> None:
        super().__init__(rank=99)
        self.sources = [SimpleNamespace(repo=repo)]


@pytest.mark.parametrize(
    ("mode", "kept", "lost", "dropped"),
    [
        ("drop", [10, 20], 55, 2),
        ("truncate", [10, 20, 20, 20], 15, 0),
        ("split", [10, 20, 12, 12, 15, 15], 0, 0),
    ],
)
def test_shortening_stand_in_lengths_reports_its_cost(
    mode: str, kept: list[int], lost: int, dropped: int
) -> None:
    import numpy as np

    lengths, cost = shorten_lengths(np.array([10, 20, 25, 30]), 20, mode)
    assert lengths.tolist() == kept
    assert cost == {"overlong_rows": 2, "overlong_dropped": dropped, "tokens_lost": lost}


def test_the_heaviest_micro_batch_is_found_in_training_order() -> None:
    import numpy as np

    lengths = np.array([10, 10, 100, 5, 5, 90])
    parts = pack_columns(lengths, np.array([0, 2, 3, 5]))
    rest = dict.fromkeys(TrainingData.__dataclass_fields__, 0)
    data = TrainingData(**{**rest, **parts, "labelled_share": 0.5})  # type: ignore[arg-type]
    assert data.pack_tokens.tolist() == [20, 100, 10, 90]
    batch = heaviest_batch(data, [0, 1, 2, 3, 1, 3], 2, TINY, TrainSettings(), cuda=False)
    assert (batch.tokens, batch.longest, batch.labelled) == (190, 100, 95)
    assert batch.pairs == 100 * 100 + 90 * 90


@pytest.mark.parametrize(
    "lora",
    [Lora(rank=4, alpha=8), Lora(rank=8, alpha=8, target_modules=["q_proj", "down_proj"])],
    ids=["all", "listed"],
)
def test_adapter_parameters_equal_those_that_peft_trains(lora: Lora, tiny_model: Path) -> None:
    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization
    from stages.train.lora_adapter import add_adapter

    model = add_adapter(load_frozen_model(tiny_model, Quantization("none", False, "bfloat16")), lora, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_parameters(json.loads((tiny_model / "config.json").read_text()), lora) == trained


def test_weight_bytes_equal_the_file_and_the_quantized_model(tiny_model: Path) -> None:
    from safetensors import safe_open

    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization

    config = json.loads((tiny_model / "config.json").read_text())
    with safe_open(tiny_model / "model.safetensors", "pt") as file:
        held = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert weight_bytes(config, "none", False, "bfloat16") == held
    for double in (False, True):
        model = load_frozen_model(tiny_model, Quantization("nf4", double, "bfloat16"))
        held = 0
        for parameter in model.parameters():
            held += parameter.nbytes
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                held += state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
        assert weight_bytes(config, "nf4", double, "bfloat16") == pytest.approx(held, rel=2e-3)


def test_a_gpu_maps_no_file_and_checkpointing_keeps_one_layer() -> None:
    batch, train = Batch(1000, 1000 * 256, 500, 300), TrainSettings()
    cpu, cuda = memory_parts(TINY, train, batch, cuda=False), memory_parts(TINY, train, batch, cuda=True)
    assert "base's file, mapped" in cpu
    assert "base's file, mapped" not in cuda
    assert cuda["activations"] < cpu["activations"]  # no probabilities
    less = activation_bytes(TINY, replace(train, gradient_checkpointing=True), batch, cuda=False)
    assert less == activation_bytes(TINY, train, batch, cuda=False) // 2 + 2 * 1000 * 64 * 2


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activation_bytes_match_what_a_forward_pass_saves(dropout: float, tiny_model: Path) -> None:
    """Every storage that autograd saves, once, parameters left out: within the 15% that the plan promises."""
    import torch

    from stages.common.model.fused import fuse_norms
    from stages.common.model.load import load_frozen_model
    from stages.common.model.packed_model import PackedModel
    from stages.common.model.packs import flatten_packs
    from stages.common.model.quantize import Quantization
    from stages.train.lora_adapter import add_adapter

    train = TrainSettings(lora=Lora(rank=4, alpha=8, dropout=dropout))
    base = load_frozen_model(tiny_model, Quantization("none", False, "bfloat16"))
    fuse_norms(base)
    model = PackedModel(add_adapter(base, train.lora, 0)).train()
    lengths = [150, 60, 40]
    labels = [-100] * (sum(lengths) - 1) + [1]
    row = flatten_packs([{"input_ids": [1] * sum(lengths), "labels": labels, "lengths": lengths}])
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # held, so that no other one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**row)
    config = json.loads((tiny_model / "config.json").read_text())
    batch = Batch(250, sum(attention_pairs(n) for n in lengths), 150, 1)
    held = sum(storage.nbytes() for storage in saved.values())
    assert activation_bytes(config, train, batch, cuda=False) == pytest.approx(held, rel=0.15)


def test_operations_per_token_match_those_of_the_documents() -> None:
    trained = adapter_parameters(TINY, Lora(rank=4, alpha=8))
    assert operations_per_token(TINY, [30, 20], 0.4, trained) == pytest.approx(
        training_flops(TINY, [30, 20], 20, 4) / 50
    )


def test_the_share_is_taken_from_the_last_training_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = {"train": asdict(TrainSettings(lora=Lora(rank=4, alpha=8)))}
    assert reached_share(tracked, 1e6, TINY, "bfloat16") is None
    write_json("reports/pack.json", {"train": {"documents": 10, "tokens": 500, "labelled_share": 0.4}})
    write_metrics("reports/train.json", {}, {"tokens_per_second": 2.0})
    operations = training_flops(TINY, [50] * 10, 200, 4) / 500
    assert reached_share(tracked, 4 * operations, TINY, "bfloat16") == pytest.approx(0.5)
    # twice this machine's rate: another machine's training
    assert reached_share(tracked, operations, TINY, "bfloat16") is None
    assert reached_share(tracked, 4 * operations, TINY, "float32") is None


def test_training_time_follows_from_operations_rate_and_share() -> None:
    assert training_seconds(1e9, 1000, 0, 1e11, 0.5, checkpointing=False) == pytest.approx(20)
    assert training_seconds(1e9, 1000, 1000, 1e11, 0.5, checkpointing=True) == pytest.approx(40)
    assert measure_product_rate(TINY, "float32", "cpu", 1, seconds=0.0) > 1e6
    assert [approximate_duration(s) for s in (5, 90, 5400, 200_000)] == [
        "about 5 seconds", "about 1.5 minutes", "about 1.5 hours", "about 2.3 days",
    ]  # fmt: skip
