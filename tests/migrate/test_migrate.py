"""Migration of other programs' files: every key has its fate, and what is written composes and validates."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.core.errors import UserError
from stages.config.compose import compose_config
from stages.migrate.__main__ import OPTIONS, main, migrate, params_of, params_text, validate_params
from stages.migrate.hub_pins import known_pins
from stages.migrate.migration import CARRIED, LOST, NEEDLESS, Migration
from tests.helpers.loopback_hub import COMMIT, hub
from tests.helpers.tiny_project import REPOSITORY

INPUTS = Path(__file__).parent / "inputs"
INFO = INPUTS / "dataset_info.json"
WHOLE = ["tutorial.yml", "axolotl-chat.yml", "axolotl-fsdp.yml", "axolotl-two-sets.yml", "llama-factory-qlora.yaml", "llama-factory-text.yaml"]  # fmt: skip
AXOLOTL = {"base_model": "me/base", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True, "learning_rate": 1e-4, "datasets": [{"path": "me/rows", "type": "alpaca"}]}  # fmt: skip
FACTORY = {"model_name_or_path": "me/base", "do_train": True, "dataset": "identity", "template": "llama3", "learning_rate": 1e-4}  # fmt: skip


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def read(name: str, gpus: int = 1) -> Migration:
    return migrate(INPUTS / name, gpus, dataset_info=INFO if name.startswith("llama") else None)


def migrated(folder: Path, base: dict[str, Any], **changes: Any) -> Migration:
    """The migration of a small file with changes; None removes a key."""
    given = {key: value for key, value in {**base, **changes}.items() if value is not None}
    (file := folder / "given.yml").write_text(yaml.safe_dump(given), "utf-8")
    m = migrate(file, dataset_info=INFO if "dataset" in given else None)
    assert set(given) == m.told() & set(given), "each key of the file has its fate"
    return m


def fates(m: Migration, kind: str) -> dict[str, str]:
    return {fate.key: fate.text for fate in m.fates if fate.kind == kind}


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_of_a_public_file_has_its_fate_and_the_result_validates(name: str) -> None:
    m = read(name)
    assert set(m.given) - m.told() == set()
    validate_params(m)


def test_the_tutorial_becomes_its_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the batch differs: the published file has one micro batch of 10, the preset four of 2."""
    main([str(INPUTS / "tutorial.yml"), "--output", str(tmp_path / "params.yaml")])
    printed = capsys.readouterr()
    ours, preset = compose_config(params=tmp_path / "params.yaml"), compose_config("experiment=tutorial")
    assert ours["base"] == preset["base"]
    assert ours["fetch"].sources == preset["fetch"].sources
    assert ours["prompt"] == preset["prompt"]
    assert ours["clean"] == preset["clean"]
    assert (ours["pack"].max_length, ours["pack"].overlong, ours["pack"].validation_share) == (
        2048,
        "drop",
        0.02,
    )
    differ = {k: v for k, v in vars(ours["train"]).items() if v != getattr(preset["train"], k)}
    assert differ == {"micro_batch": 10, "accumulation": 1, "seed": 42}
    assert printed.out == ""
    assert "NOT carried over: 2\n  eval_steps: 0.01\n" in printed.err
    assert "<s>, </s>, <unk>" in printed.err
    assert (tmp_path / "params.yaml").read_text("utf-8").startswith("# From tutorial.yml of Axolotl")


def test_chat_rows_in_8_bits_one_row_a_pack() -> None:
    m = read("axolotl-chat.yml")
    assert (m.settings["train.quantization"], m.settings["pack.max_documents"]) == ("int8", 1)
    assert (m.settings["prompt"], m.settings["prompt.loss"]) == ("chat", "all")
    assert (m.settings["train.warmup"], m.settings["train.warmup_steps"]) == (0.1, 0)
    assert m.settings["train.optimizer"] == "adamw_8bit"
    assert fates(m, LOST).keys() == {"chat_template", "evals_per_epoch"}
    assert "special_tokens" in fates(m, NEEDLESS)
    assert m.todo[0].startswith("base.revision: the 40-digit commit of NousResearch/Meta-Llama-3-8B-Instruct")
    assert "revision: ???" in params_text(m)


def test_a_batch_is_of_all_processes() -> None:
    one, four = read("axolotl-fsdp.yml"), read("axolotl-fsdp.yml", gpus=4)
    assert one.settings["train.accumulation"] == 4
    assert "--gpus N" in fates(one, LOST)["fsdp"]
    assert four.settings["train.accumulation"] == 16
    assert (four.settings["train.launcher"], four.settings["train.accelerate"]) == ("accelerate", "fsdp")
    assert four.settings["train.processes"] == 4
    assert four.settings["train.learning_rate"] == 2e-4  # which YAML 1.1 reads as text
    validate_params(four)


def test_two_data_sets_are_two_sources_and_what_is_lost_is_said() -> None:
    m = read("axolotl-two-sets.yml")
    assert [source["name"] for source in m.sources] == ["alpaca_2k_test", "alpaca_2k_test-2"]
    lost = fates(m, LOST)
    assert lost.keys() == {"lora_modules_to_save", "curriculum_sampling", "test_value"}
    assert "unknown here" in lost["test_value"]
    assert all(f"#   {key}: " in params_text(m) for key in lost)


def test_llama_factory_names_are_looked_up() -> None:
    m = read("llama-factory-qlora.yaml")
    identity, alpaca = m.sources
    assert (identity["kind"], identity["path"]) == ("file", "data/sources/identity.json")
    assert (alpaca["kind"], alpaca["repo"]) == ("hub", "sahil2801/CodeAlpaca-20k")
    assert identity["max_rows"] == alpaca["max_rows"] == 1000
    assert any(
        f"cp -r {INPUTS}/identity.json data/sources/identity.json && dvc add" in entry for entry in m.todo
    )
    assert (m.settings["train.lora.rank"], m.settings["train.lora.alpha"]) == (8, 16)
    assert (m.settings["train.quantization"], m.settings["train.dtype"]) == ("nf4", "bfloat16")
    assert (m.settings["train.micro_batch"], m.settings["train.accumulation"]) == (1, 8)
    assert (m.settings["train.eval_every"], m.settings["pack.validation_share"]) == (500, 0.1)
    assert (m.settings["pack.max_length"], m.settings["pack.overlong"]) == (2048, "truncate")
    assert m.settings["train.gradient_checkpointing"] is True
    assert (m.settings["prompt"], m.settings["prompt.loss"]) == ("chat", "all")
    assert fates(m, LOST).keys() == {"trust_remote_code"}


def test_running_text_is_split_and_packed() -> None:
    m = migrate(INPUTS / "llama-factory-text.yaml")
    assert (m.settings["prompt"], m.settings["pack.overlong"]) == ("completion", "split")
    assert m.settings["pack.max_documents"] == 0
    assert any("--dataset-info FILE" in entry for entry in m.todo)
    assert "deepspeed" in fates(m, LOST)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("axolotl-dpo.yml", ["rl: dpo: codetune trains on answers, not on preferences", "adapter: None"]),
        ("axolotl-pretrain.yml", ["adapter: None: codetune trains LoRA adapters"]),
    ],
)
def test_other_trainings_are_refused(
    name: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(INPUTS / name), "--output", str(tmp_path / "params.yaml")])
    message = capsys.readouterr().err
    assert ended.value.code == 1
    assert "cannot be carried over, and nothing was written" in message
    assert all(part in message for part in parts)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "params.yaml").write_text("mine\n", "utf-8")
    with pytest.raises(SystemExit):
        main([str(INPUTS / "tutorial.yml"), "--output", str(file)])
    assert "is there already" in capsys.readouterr().err
    assert file.read_text("utf-8") == "mine\n"
    main([str(INPUTS / "tutorial.yml"), "--output", str(file), "--force"])
    assert "base: codellama-7b" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: a/b\nbase_model: c/d\n", r"base_model is set twice \(lines 1 and 2\)"),
        ("- a\n", "expected a mapping of settings, found list"),
        ("a: [\n", "is not valid YAML"),
        ("model: Qwen/Qwen3-4B\ntrain_dataset: x\n", "v1 layout"),
        ("base_model: a/b\nadapter: lora\nlora_target_linear: true\ndatasets: [{path: a/b, type: alpaca}]\nlearning_rate: fast\n", "learning_rate is 'fast', expected a number"),
        ("base_model: a/b\nadapter: lora\nlora_target_linear: true\ndatasets: [{path: a/b}]\n", "texts, not tokens"),
    ],
)  # fmt: skip
def test_bad_files_end_in_one_message(text: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "given.yml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        migrate(file)


def test_values_out_of_range_here_are_refused(tmp_path: Path) -> None:
    m = migrated(tmp_path, AXOLOTL, lora_dropout=1.5)
    with pytest.raises(
        UserError, match=r"given\.yml: what it sets is not valid here.*train\.lora\.dropout is 1\.5"
    ):
        validate_params(m)


# What keys of Axolotl mean, by the one setting that they decide
@pytest.mark.parametrize(
    ("changes", "setting", "value"),
    [
        ({"batch_size": 16, "micro_batch_size": 2}, "train.accumulation", 8),
        ({}, "train.warmup", 0.03),
        ({"warmup_steps": 10, "warmup_ratio": 0.5}, "train.warmup_steps", 10),
        ({"warmup_steps": 0, "warmup_ratio": 0.5}, "train.warmup", 0),
        ({"lr_scheduler": "constant", "warmup_steps": 10}, "train.warmup_steps", 0),
        ({"lr_scheduler": "constant_with_warmup", "warmup_steps": 10}, "train.warmup_steps", 10),
        ({"cosine_min_lr_ratio": 0.1}, "train.min_learning_rate", 0.1),
        ({"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}, "train.min_learning_rate", 0.1),
        ({"max_steps": 30, "num_epochs": 2}, "train.epochs", 10000.0),
        ({"optimizer": "paged_adamw_32bit"}, "train.optimizer", "paged_adamw"),
        ({"optimizer": "lion_8bit"}, "train.optimizer", "lion"),
        ({"optimizer": "came_pytorch"}, "train.optimizer", "adamw"),
        ({"adapter": "lora", "load_in_4bit": None}, "train.quantization", "none"),
        ({"adapter": "lora", "load_in_4bit": None, "load_in_8bit": True}, "train.quantization", "int8"),
        ({"bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}, "train.quantization", "fp4"),
        ({"peft": {"loftq_config": {"loftq_bits": 4}}}, "train.lora.init", "loftq"),
        ({"lora_target_linear": None, "lora_target_modules": ["q_proj"]}, "train.lora.target_modules", ["q_proj"]),
        ({"train_on_inputs": True}, "prompt.loss", "text"),
        ({"val_set_size": 200}, "pack.validation_share", 0.05),
        ({"sample_packing": True}, "pack.max_documents", 0),
        ({"flash_attention": True}, "train.attention", "flash"),
        ({"sdp_attention": True}, "train.attention", "sdpa"),
        ({"xformers_attention": True}, "train.attention", "auto"),
        ({"bf16": False}, "train.dtype", "float32"),
        ({"eval_steps": 50, "early_stopping_patience": 3}, "train.early_stopping_patience", 3),
        ({"datasets": [{"path": "me/rows", "type": "completion"}]}, "pack.overlong", "split"),
        ({"datasets": [{"path": "me/rows", "type": "sharegpt"}]}, "prompt", "chat"),
        ({"base_model": "./out/mine"}, "base.path", "models/mine"),
    ],
    ids=str,
)  # fmt: skip
def test_what_keys_of_axolotl_mean(changes: dict[str, Any], setting: str, value: Any, tmp_path: Path) -> None:
    found = migrated(tmp_path, AXOLOTL, **changes).settings[setting]
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("changes", "setting", "value"),
    [
        ({}, "train.micro_batch", 8),  # transformers' defaults
        ({}, "train.epochs", 3.0),
        ({}, "train.schedule", "linear"),
        ({}, "train.warmup", 0.0),
        ({"warmup_steps": 0, "warmup_ratio": 0.1}, "train.warmup", 0.1),  # unlike Axolotl
        ({"quantization_bit": 8}, "train.quantization", "int8"),
        ({"lora_target": "q_proj, v_proj"}, "train.lora.target_modules", ["q_proj", "v_proj"]),
        ({"neat_packing": True}, "pack.max_documents", 0),
        ({"disable_gradient_checkpointing": True}, "train.gradient_checkpointing", False),
        ({"mask_history": True}, "prompt.loss", "last"),
        ({"train_on_prompt": True}, "prompt.loss", "text"),
        ({"template": "alpaca"}, "prompt", "alpaca"),
        ({"flash_attn": "fa2"}, "train.attention", "flash"),
        ({"loraplus_lr_ratio": 16.0}, "train.lora.loraplus_lr_ratio", 16.0),
    ],
    ids=str,
)
def test_what_keys_of_llama_factory_mean(
    changes: dict[str, Any], setting: str, value: Any, tmp_path: Path
) -> None:
    assert migrated(tmp_path, FACTORY, **changes).settings[setting] == value


@pytest.mark.parametrize(
    ("entry", "source", "fate"),
    [
        ({"path": "me/rows", "type": "alpaca", "split": "train[:500]", "name": "python"}, {"max_rows": 500, "configuration": "python"}, None),
        ({"path": "me/rows", "type": "alpaca", "split": "train[:5%]"}, {}, "the part [:5%]"),
        ({"path": "rows/mine.jsonl", "type": "alpaca", "ds_type": "json"}, {"kind": "file", "path": "data/sources/mine.jsonl"}, None),
        ({"path": "json", "data_files": ["a/one.json"], "type": "alpaca"}, {"path": "data/sources/one.json"}, None),
        ({"path": "https://host/rows.jsonl", "type": "alpaca"}, {"path": "data/sources/rows.jsonl"}, None),
        ({"path": "me/rows", "type": "chat_template", "field_messages": "talk"}, {"columns": {"messages": "talk"}}, None),
        ({"path": "me/rows", "type": "chat_template", "message_property_mappings": {"role": "from", "content": "value"}}, {}, None),
        ({"path": "me/rows", "type": "chat_template", "message_property_mappings": {"role": "who"}}, {}, "rename these fields"),
        ({"path": "me/rows", "type": "completion", "field": "code"}, {"columns": {"completion": "code"}}, None),
        ({"path": "me/rows", "type": "alpaca", "shards": 4}, {}, "no such setting of a source"),
        ({"path": "me/rows", "type": {"field_instruction": "ask", "field_output": "say", "format": "[INST] {instruction} [/INST]"}}, {"columns": {"prompt": "ask", "completion": "say"}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_where_rows_are_and_what_they_are_called(
    entry: dict[str, Any], source: dict[str, Any], fate: str | None, tmp_path: Path
) -> None:
    m = migrated(tmp_path, AXOLOTL, datasets=[entry])
    assert source.items() <= m.sources[0].items()
    assert [bool(fate) and str(fate) in text for text in fates(m, LOST).values()] == ([True] if fate else [])
    if isinstance(entry["type"], dict):
        assert m.settings["prompt.template"] == "[INST] {{ prompt }} [/INST]"
    validate_params(m)


def test_styles_that_do_not_agree_are_said(tmp_path: Path) -> None:
    entries = [{"path": "a/b", "type": "chat_template"}, {"path": "c/d", "type": "alpaca"}]
    m = migrated(tmp_path, AXOLOTL, datasets=entries)
    assert m.settings["prompt"] == "chat"
    assert "prompt: chat, not alpaca" in fates(m, LOST)["datasets[1].type"]


def test_a_licence_that_is_known_is_taken_and_allowed(tmp_path: Path) -> None:
    entry = {"path": "nickrosh/Evol-Instruct-Code-80k-v1", "type": "alpaca"}
    params = params_of(migrated(tmp_path, AXOLOTL, datasets=[entry]))
    assert params["fetch"]["sources"][0]["licence"] == "CC-BY-NC-SA-4.0"
    assert "CC-BY-NC-SA-4.0" in params["fetch"]["licences"]


def test_the_hub_is_asked_for_pins_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    card = b"---\nlicense: apache-2.0\n---\n"
    (file := tmp_path / "given.yml").write_text(yaml.safe_dump(AXOLOTL), "utf-8")
    with hub({"me/base": {"README.md": card}, "datasets/me/rows": {"README.md": card}}) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        m = migrate(file, ask=True)
    assert m.settings["base.revision"] == m.sources[0]["revision"] == COMMIT
    assert [entry for entry in m.todo if "revision" in entry] == []
    assert fates(m, CARRIED)["base_model"] == "base.name: me/base (kind: hub)"


def test_every_group_has_an_option_in_the_order_of_params_yaml() -> None:
    groups = [
        entry
        for entry in yaml.safe_load(Path("params.yaml").read_text("utf-8"))["defaults"]
        if entry != "_self_"
    ]
    assert list(OPTIONS) == [group for entry in groups for group in entry]


def test_pins_of_the_presets_are_known() -> None:
    assert known_pins()["codellama/CodeLlama-7b-hf"]["option"] == "codellama-7b"
    assert known_pins()["nvidia/OpenCodeInstruct"]["licence"] == "CC-BY-4.0"
