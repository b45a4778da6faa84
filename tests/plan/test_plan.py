"""The plan: what a configuration will take and what is odd about it, before anything is spent."""

import json
import shutil
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from stages.common.core.errors import UserError
from stages.common.core.files import write_json, write_metrics, write_parquet
from stages.common.engine import EngineSettings
from stages.common.model.packs import read_packs
from stages.common.model.shapes import ModelShapes, empty_model, model_shapes, training_flops
from stages.common.rows.schema import row_schema
from stages.common.text.settings import PromptSettings
from stages.config.compose import compose_config
from stages.evaluate.settings import EvaluateSettings
from stages.merge.settings import MergeSettings
from stages.pack.settings import PackSettings
from stages.plan.__main__ import main
from stages.plan.advice import DATA_ADVICE, RUN_ADVICE, find_warnings
from stages.plan.data_estimate import (
    TrainingData,
    estimate_data,
    full_batch,
    heaviest_batch,
    pack_columns,
)
from stages.plan.device import Hardware, detect_hardware
from stages.plan.estimate import make_plan
from stages.plan.memory import (
    Batch,
    activation_bytes,
    adapted_layers,
    adapter_parameters,
    attention_pairs,
    evaluate_bytes,
    gate_bytes,
    memory_parts,
    required_bytes,
    weight_bytes,
)
from stages.plan.planned_run import CHANGE, EVALUATE, GATE, PlannedRun
from stages.plan.refusals import refuse_training
from stages.plan.spending import operations_per_token, reached_share, training_seconds
from stages.plan.table import approximate_duration, render_plan
from stages.train.settings import Lora, TrainSettings
from tests.helpers.tiny_project import REPOSITORY, generated_functions


def modules(kind: str = "llama", **changes: Any) -> Any:
    """A model of two layers on the meta device."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 640}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return empty_model(AutoConfig.for_model(kind, **{**sizes, **heads, **changes}))


TINY = model_shapes(modules())
LAYERS = TINY.linear


def shapes_of(folder: Path) -> ModelShapes:
    from transformers import AutoConfig

    return model_shapes(empty_model(AutoConfig.from_pretrained(folder)))


def test_operations_equal_pytorchs_count() -> None:
    """One document of one layer's shapes: PyTorch's own counter over the same products, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    tokens, rank = 12, 4
    with FlopCounterMode(display=False) as counter:
        for inputs, outputs in LAYERS.values():
            x = torch.randn(tokens, inputs, requires_grad=True)
            a = torch.randn(rank, inputs, requires_grad=True)
            b = torch.randn(outputs, rank, requires_grad=True)
            (x @ torch.randn(outputs, inputs).T + (x @ a.T) @ b.T).sum().backward()
    attention = 2 * 3 * 4 * 64 * tokens * (tokens + 1) / 2
    trained = adapter_parameters(LAYERS, Lora(rank=rank))
    assert training_flops(TINY, [tokens], 0, trained) == counter.get_total_flops() + attention


def test_head_operations_count_labelled_tokens_and_attention_counts_documents() -> None:
    whole, apart = training_flops(TINY, [100], 0), training_flops(TINY, [50, 50], 0)
    assert whole - apart == 2 * 3 * 4 * 64 * (100 * 101 - 2 * 50 * 51) / 2
    assert training_flops(TINY, [100], 10) - whole == 4 * 10 * 64 * 640
    assert training_flops(TINY, [100], 0, 7) - whole == 6 * 100 * 7


def test_only_the_experts_of_a_token_are_operations() -> None:
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    shapes = model_shapes(modules("qwen3_moe", **experts))
    assert shapes.experts == 2 * 2 * 3 * 64 * 32  # layers, chosen, matrices
    assert shapes.other > 2 * 8 * 3 * 64 * 32


DATA = TrainingData(
    origin="packs",
    basis="counted",
    rows_in=20_000,
    rows=19_000,
    pack_tokens=np.full(9_000, 2000),
    pack_pairs=np.full(9_000, 1),
    pack_longest=np.full(9_000, 1),
    lengths=np.full(9_000, 2000),
    labelled_share=0.5,
    validation_rows=1_000,
    validation_tokens=100_000,
    overlong="drop",
    overlong_rows=0,
    overlong_dropped=0,
    tokens_lost=0,
)
FINE = PlannedRun(
    sections={
        "train": TrainSettings(learning_rate=2e-4, optimizer="paged_adamw", micro_batch=8),
        "pack": PackSettings(max_length=2048, validation_share=0.05),
        "base": SimpleNamespace(name="tiny"),
    },
    shape="here",
    context=4096,
    data=DATA,
    machine=Hardware("cuda", "GPU", 24 << 30, True, 2, 100 << 30),
    steps=2_000,
    warmup_steps=60,
    epochs=2.0,
    tokens=36_000_000,
    memory={"all": 10 << 30},
    disk={"all": 30 << 30},
    plain=10 << 30,
    checkpointed=6 << 30,
    later={GATE: 15 << 30, EVALUATE: 16 << 30},
    rate=1e14,
    share=0.35,
    share_basis="assumed",
    power="",
    operations=1e9,
    seconds=3.0 * 3600,
)


def changed(value: Any, changes: dict[str, Any]) -> Any:
    """A copy of a dataclass in which each change is made in the first part that has a field of that name."""
    left = dict(changes)
    own = {name: left.pop(name) for name in list(left) if name in {f.name for f in fields(value)}}
    for field in fields(value):
        part = own.get(field.name, getattr(value, field.name))
        if isinstance(part, dict) and field.name == "sections":
            parts = {}
            for name, section in part.items():
                mine = {k: left.pop(k) for k in list(left) if is_dataclass(section) and has_field(section, k)}
                parts[name] = changed(section, mine) if mine else section
            own[field.name] = parts
        elif is_dataclass(part):
            mine = {k: left.pop(k) for k in list(left) if has_field(part, k)}
            own |= {field.name: changed(part, mine)} if mine else {}
    assert not left, f"no field: {left}"
    return replace(value, **own)


def has_field(value: Any, name: str) -> bool:
    parts = [getattr(value, f.name) for f in fields(value)]
    return name in {f.name for f in fields(value)} or any(
        is_dataclass(p) and has_field(p, name) for p in parts
    )


ADVICE = ("Set ", "Lower ", "Raise ", "Hold out ", "Free ", "Use ", " would ")


def test_a_sound_run_has_no_warning() -> None:
    assert find_warnings(FINE) == {}
    text = render_plan(FINE)
    assert "9,000 of 2,048 tokens, 97.7% full" in text
    assert "warnings: none" in text


@pytest.mark.parametrize(
    ("name", "still_fine", "warned", "message"),
    [
        ("warmup", {"warmup_steps": 200}, {"warmup_steps": 201}, "201 warmup steps are 10% of the 2000 steps, about a tenth"),
        ("warmup", {"warmup_steps": 1, "steps": 50}, {"warmup_steps": 100, "steps": 364}, "27% of the 364 steps, about a third of the run"),
        ("validation", {"validation_rows": 28}, {"validation_rows": 27}, "Hold out 28 rows or more"),
        ("validation", {"validation_rows": 400}, {"validation_rows": 20}, "20 validation rows cannot support early stopping"),
        ("validation", {}, {"validation_rows": 0, "validation_share": 0.0}, "Set pack.validation_share=0.05"),
        ("validation", {}, {"validation_rows": 0}, "although pack.validation_share=0.05"),
        ("overlong", {}, {"overlong_rows": 1, "tokens_lost": 2049}, "1 of 20000 rows over 2048 tokens (prompt format included) are lost"),
        ("overlong", {}, {"overlong_rows": 9, "data": replace(DATA, overlong="truncate")}, "are cut"),
        ("scale", {"alpha": 16}, {"alpha": 15}, "Set train.lora.alpha=32"),
        ("scale", {"alpha": 64}, {"alpha": 65}, "the usual 2"),
        ("scale", {"alpha": 16, "rank": 256, "rslora": True}, {"alpha": 16, "rank": 32}, "16/32 = 0.5: the update is scaled to a quarter of the usual 2"),
        ("learning_rate", {"learning_rate": 5e-5}, {"learning_rate": 4e-5}, "below"),
        ("learning_rate", {"learning_rate": 1e-3}, {"learning_rate": 2e-3}, "above"),
        ("few_steps", {"steps": 50, "warmup_steps": 2}, {"steps": 49, "warmup_steps": 2}, "only 49 optimizer steps"),
        ("epochs", {"epochs": 3.0, "rows": 2000}, {"epochs": 3.0, "rows": 1999}, "3 passes over 1999 rows"),
        ("epochs", {"epochs": 2.0, "rows": 900}, {"epochs": 2.5, "rows": 900}, "2.5 passes over 900 rows"),
        ("batch", {"pack_tokens": np.full(8, 2000)}, {"pack_tokens": np.full(7, 2000)}, "takes 8 packs, but there are only 7"),
        ("packing", {"pack_tokens": np.full(99, 1741)}, {"pack_tokens": np.full(99, 1720)}, "84% full"),
        ("memory", {"plain": 21 << 30}, {"plain": 22 << 30}, "gradient_checkpointing=true, which lowers it to 6.0 GiB"),
        ("memory", {"plain": 21 << 30}, {"plain": 30 << 30, "checkpointed": 23 << 30}, "Lower train.micro_batch"),
        ("later_memory", {"later": {GATE: 21 << 30}}, {"later": {GATE: 22 << 30}}, "merge's gate about 22.0 GiB will not fit into the 24.0 GiB of GPU memory"),
        ("later_memory", {}, {"later": {GATE: 0, EVALUATE: 30 << 30}}, "Lower evaluate.batch_size or evaluate.memory_gib"),
        ("checkpointing", {"gradient_checkpointing": True, "plain": 22 << 30}, {"gradient_checkpointing": True, "plain": 21 << 30}, "not needed"),
        ("disk", {"disk": {"all": 90 << 30}}, {"disk": {"all": 91 << 30}}, "97.7 GB"),
        ("duration", {"seconds": 86400.0}, {"seconds": 1.5 * 86400}, "1.5 days"),
        ("bfloat16", {"bf16": False, "dtype": "float32"}, {"bf16": False}, "train.dtype=float16"),
        ("optimizer", {"device": "cpu", "optimizer": "adamw"}, {"device": "cpu"}, "train.optimizer=adamw"),
    ],
)  # fmt: skip
def test_each_warning_appears_only_beyond_its_threshold(
    name: str, still_fine: dict[str, Any], warned: dict[str, Any], message: str
) -> None:
    assert find_warnings(changed(FINE, still_fine)) == {}
    found = find_warnings(changed(FINE, warned))
    assert message in found[name]
    assert any(word in found[name] for word in ADVICE), "the warning must say what to do"


def test_every_warning_is_tested_at_its_threshold() -> None:
    (cases,) = [
        m for m in test_each_warning_appears_only_beyond_its_threshold.pytestmark if m.name == "parametrize"
    ]
    every = {advice.__name__ for advice in (*RUN_ADVICE, *DATA_ADVICE)}
    assert {f"{case[0]}_advice" for case in cases.args[1]} == every


def test_without_rows_only_what_the_settings_decide_is_warned_of() -> None:
    unknown = changed(FINE, {"steps": 0, "warmup_steps": 0, "alpha": 1, "data": "no data/packed"})
    assert list(find_warnings(unknown)) == ["scale"]
    text = " ".join(render_plan(replace(unknown, tokens=0)).split())
    assert "rows not known: no data/packed. Rows, steps and their warnings need `dvc repro clean`" in text
    assert "a million tokens about 3.0 hours" in text


def test_a_checkpoint_is_chosen_by_the_rows_too() -> None:
    few = {"validation_rows": 20, "early_stopping_patience": 2, "eval_every": 5}
    assert "or the choice of a checkpoint" in find_warnings(changed(FINE, few))["validation"]
    assert f"a standard error of {CHANGE / 20**0.5:.3f}" in find_warnings(changed(FINE, few))["validation"]


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


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


def refuse(model: Any, folder: Path, steps: int | None, held_out: int | None, **train: Any) -> None:
    settings = TrainSettings(**train)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()), "utf-8")
    sections = {"train": settings, "pack": PackSettings(max_length=512)}
    refuse_training(sections, folder, model, adapted_layers(model, settings.lora), steps, held_out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 0.0, "warmup_steps": 40}, r"train\.warmup_steps is 40 and the training has 40 steps"),
        ({"keep_best": True, "eval_every": 5}, r"train\.keep_best compares validation losses"),
        ({"launcher": "accelerate", "processes": 2}, r"set train\.accumulation=2"),
        ({"lora": Lora(target_modules=["q_prj"])}, r"no linear layer is named 'q_prj'. Did you mean 'q_proj'"),
        ({"lora": Lora(rank=40, init="loftq")}, r"train\.lora\.rank is 40: .*k_proj is \(32, 64\)"),
        *([] if torch.cuda.is_available() else [({"attention": "flash"}, "needs a CUDA GPU")]),
    ],
)  # fmt: skip
def test_what_train_refuses_the_plan_refuses(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = modules()
    refuse(model, tmp_path, 40, 0)
    with pytest.raises(UserError, match=message):
        refuse(model, tmp_path, 40, 0, **changes)


def test_where_rows_are_not_known_only_what_needs_none_is_refused(tmp_path: Path) -> None:
    refuse(modules(), tmp_path, None, None, keep_best=True, eval_every=5, warmup=0.0, warmup_steps=9)
    with pytest.raises(UserError, match="the training has 9 steps"):
        refuse(modules(), tmp_path, None, None, max_steps=9, warmup=0.0, warmup_steps=9)
    with pytest.raises(UserError, match=r"pack\.max_length is 512, but the context of .* is 256"):
        refuse(modules(max_position_embeddings=256), tmp_path, None, None)


def test_experts_under_all_linear_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of the weights in layers are experts"):
        refuse(modules("qwen3_moe", num_experts=8), tmp_path, None, None)


def test_a_7b_model_in_4_bits_takes_its_memory() -> None:
    """CodeLlama: 6.74 billion parameters; 3.6 GB in NF4 with embeddings and head in 16 bits; rank 32 on all linear
    layers: 80 million.
    """
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32016}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32}
    shapes = model_shapes(modules(**sizes, **heads, tie_word_embeddings=False))
    assert weight_bytes(shapes, "none", False, "bfloat16") / 2 == pytest.approx(6.74e9, rel=0.001)
    assert weight_bytes(shapes, "nf4", True, "bfloat16") / 1e9 == pytest.approx(3.87, rel=0.01)
    assert adapter_parameters(shapes.linear, Lora(rank=32)) == 79_953_920
    train = TrainSettings(lora=Lora(rank=32), optimizer="paged_adamw", gradient_checkpointing=True)
    batch = full_batch(PackSettings(max_length=2048), 2)
    parts = memory_parts(shapes, train, batch, shapes.linear, cuda=True)
    assert parts["optimizer state"] == 8 * 79_953_920
    assert 7 << 30 < required_bytes(parts) < 9 << 30
    sections = {"train": train, "merge": MergeSettings(), "pack": PackSettings(max_length=2048)}
    assert 13 << 30 < gate_bytes(shapes, sections, cuda=True) < 15 << 30
    sections["merge"] = MergeSettings(parity_tokens=0)
    assert gate_bytes(shapes, sections, cuda=True) == 0
    wide, narrow = (evaluate_bytes(shapes, EvaluateSettings(memory_gib=g), 20 << 30, True) for g in (0, 2))
    assert narrow == 2 * 6_738_546_688 + (2 << 30) + (600 << 20)
    assert wide == narrow + (12 << 30), "70% of the 20 GiB that are free"


@pytest.mark.parametrize(
    ("kind", "names", "trained"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, 2 * 4 * (192 + 128 + 320 + 192)),
        ("gpt_neox", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}, 2 * 4 * (256 + 128 + 192 + 192)),
        ("starcoder2", {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"}, 2 * 4 * (128 + 96 + 96 + 128 + 384)),
    ],
)  # fmt: skip
def test_fused_and_ungated_layers_are_counted_as_they_are(kind: str, names: set[str], trained: int) -> None:
    layers = adapted_layers(modules(kind), Lora())
    assert {name.rpartition(".")[2] for name in layers} == names
    assert adapter_parameters(layers, Lora(rank=4)) == trained


def test_the_table_and_the_json_are_readable(packed_rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:  # fmt: skip
    composed = {"train": TrainSettings(warmup=0.0, warmup_steps=3, lora=Lora(rank=4, alpha=8))}
    others = {"merge": MergeSettings(), "evaluate": EvaluateSettings()}
    base = SimpleNamespace(name="tiny", kind="local", path="models/base")
    sections = {**packed_rows, **composed, **others, "base": base}
    run = make_plan(sections, tracked_of({**packed_rows, "fetch": Lora(rank=9)}), calibration=0.0)
    text, warnings = render_plan(run), find_warnings(run)
    joined = " ".join(text.split())
    assert "base tiny (models/base)" in joined
    assert all(" ".join(message.split()) in joined for message in warnings.values())
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "merge's gate" in text
    assert "can show no benchmark is chosen" in joined
    monkeypatch.setattr("stages.plan.__main__.compose_config", lambda *overrides: sections)
    monkeypatch.setattr("stages.plan.estimate.make_plan", lambda sections, tracked: run)
    main(["--json"])
    read = json.loads(capsys.readouterr().out)
    assert (read["base"], read["steps"], read["warnings"]) == ("tiny", run.steps, warnings)
    assert required_bytes(read["memory"]) == read["needed"] == run.needed
    assert read["later"].keys() == {GATE, EVALUATE}


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
    counted: Any = estimate_data(packed_rows, tracked)
    assert counted.origin == "packs"
    assert counted.overlong_rows == 1
    assert counted.pack_tokens.tolist() == read_packs("data/packed/train.arrow").tokens
    shutil.rmtree("data/packed")
    estimated: Any = estimate_data(packed_rows, tracked)
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
    data: Any = estimate_data(longer, tracked)
    assert data.origin == "clean"
    assert "belongs to another configuration (pack)" in data.basis
    assert data.pack_tokens.max() > 160
    # reports/config.yaml says 240, but data/packed was packed with 160
    by_hand: Any = estimate_data(longer, tracked_of(longer))
    assert by_hand.origin == "clean"
    other = estimate_data({**packed_rows, "fetch": Lora(rank=99)}, tracked)
    assert other == (
        "data/packed belongs to another configuration (fetch), and data/clean/rows.parquet has no rows of it"
    )


def test_the_heaviest_micro_batch_is_found_in_training_order() -> None:
    parts = pack_columns(np.array([10, 10, 100, 5, 5, 90]), np.array([0, 2, 3, 5]))
    data = replace(DATA, **parts)
    assert data.pack_tokens.tolist() == [20, 100, 10, 90]
    batch = heaviest_batch(data, [0, 1, 2, 3, 1, 3], TINY, TrainSettings(micro_batch=2), 14, cuda=False)
    assert (batch.tokens, batch.longest, batch.labelled) == (190, 100, 95)
    assert batch.pairs == 100 * 100 + 90 * 90


@pytest.mark.parametrize(
    "lora",
    [Lora(rank=4, alpha=8, dora=True), Lora(rank=8, alpha=8, target_modules=["q_proj", "down_proj"]), Lora(rank=2, target_modules=r".*layers\.1\.mlp\..*_proj")],
    ids=["all", "listed", "pattern"],
)  # fmt: skip
def test_adapter_parameters_equal_those_that_peft_trains(lora: Lora, tiny_model: Path) -> None:
    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization
    from stages.train.lora_adapter import add_adapter

    base = load_frozen_model(tiny_model, Quantization("none", False, "bfloat16"))
    layers = adapted_layers(base, lora)
    model = add_adapter(base, lora, 0)
    assert adapter_parameters(layers, lora) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_weight_bytes_equal_the_file_and_the_quantized_model(tiny_model: Path) -> None:
    from safetensors import safe_open

    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization

    shapes = shapes_of(tiny_model)
    with safe_open(tiny_model / "model.safetensors", "pt") as file:
        held = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert weight_bytes(shapes, "none", False, "bfloat16") == held
    for double in (False, True):
        model = load_frozen_model(tiny_model, Quantization("nf4", double, "bfloat16"))
        assert model_shapes(model) == shapes, "of quantized modules too"
        held = 0
        for parameter in model.parameters():
            held += parameter.nbytes
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                held += state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
        assert weight_bytes(shapes, "nf4", double, "bfloat16") == pytest.approx(held, rel=2e-3)


def test_a_gpu_maps_no_file_and_checkpointing_keeps_one_layer() -> None:
    batch, train = Batch(1000, 1000 * 256, 500, 300), TrainSettings()
    cpu, cuda = (memory_parts(TINY, train, batch, LAYERS, cuda) for cuda in (False, True))
    assert "base's file, mapped" in cpu
    assert "base's file, mapped" not in cuda
    assert cuda["activations"] < cpu["activations"]  # no probabilities
    less = activation_bytes(TINY, replace(train, gradient_checkpointing=True), batch, 14, cuda=False)
    assert less == activation_bytes(TINY, train, batch, 14, cuda=False) // 2 + 2 * 1000 * 64 * 2


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activation_bytes_match_what_a_forward_pass_saves(dropout: float, tiny_model: Path) -> None:
    """Every storage that autograd saves, once, parameters left out: within the 15% that the plan promises."""
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
    shapes = shapes_of(tiny_model)
    batch = Batch(250, sum(attention_pairs(n) for n in lengths), 150, 1)
    held = sum(storage.nbytes() for storage in saved.values())
    assert activation_bytes(shapes, train, batch, 14, cuda=False) == pytest.approx(held, rel=0.15)


def test_operations_per_token_match_those_of_the_documents() -> None:
    assert operations_per_token(TINY, [30, 20], 0.4, 77) == pytest.approx(
        training_flops(TINY, [30, 20], 20, 77) / 50
    )


def test_the_share_is_that_of_the_last_training_on_this_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = {"train": asdict(TrainSettings(gradient_checkpointing=True))}
    here, gpu = torch.backends.cpu.get_cpu_capability(), Hardware("cuda", "H100", 1, True, 1, 1)
    cpu = replace(gpu, device="cpu", name="EPYC")
    assert reached_share(tracked, cpu, "bfloat16") is None
    write_metrics("reports/train.json", {"gpu": None, "instruction_set": here}, {"share_of_peak": 0.3})
    assert reached_share(tracked, cpu, "bfloat16") == pytest.approx(0.45), "recomputed work counted"
    assert reached_share(tracked, cpu, "float32") is None
    assert reached_share(tracked, gpu, "bfloat16") is None
    write_metrics("reports/train.json", {"gpu": "H100", "instruction_set": "other"}, {"share_of_peak": 0.3})
    assert reached_share(tracked, gpu, "bfloat16") == pytest.approx(0.45)
    assert reached_share(tracked, replace(gpu, name="A10"), "bfloat16") is None
    assert reached_share(tracked, cpu, "bfloat16") is None
    write_json("reports/train.json", {"gpu": "H100"})  # brought here by git: its times are of another machine
    assert reached_share(tracked, gpu, "bfloat16") is None


def test_the_gpu_is_the_one_that_training_uses_and_memory_in_use_is_not_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch hides what CUDA_VISIBLE_DEVICES leaves out."""
    found: dict[str, Any] = {
        "is_available": True,
        "mem_get_info": (5 << 30, 24 << 30),
        "get_device_name": "T4",
        "get_device_capability": (7, 5),
    }
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    machine = detect_hardware()
    assert (machine.device, machine.name, machine.memory, machine.bf16) == ("cuda", "T4", 5 << 30, False)


def test_training_time_follows_from_operations_rate_and_share() -> None:
    assert training_seconds(1e9, 1000, 0, 1e11, 0.5, checkpointing=False) == pytest.approx(20)
    assert training_seconds(1e9, 1000, 1000, 1e11, 0.5, checkpointing=True) == pytest.approx(40)
    assert [approximate_duration(s) for s in (5, 90, 5400, 200_000)] == [
        "about 5 seconds", "about 1.5 minutes", "about 1.5 hours", "about 2.3 days",
    ]  # fmt: skip
