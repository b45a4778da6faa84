"""Presets of models: two-layer models of each architecture and tokenizer class go from base to evaluate, on the settings of their preset."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from stages.base.settings import BaseSettings
from stages.common.core.files import read_json, write_json, write_parquet
from stages.common.core.stage import Settings
from stages.common.rows.schema import row_schema
from stages.config.compose import compose_config
from stages.pack.settings import PackSettings
from tests.helpers.tiny_project import REPOSITORY, generated_functions

SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
# By preset of a family: class of the model's configuration, what else it sets, class of the tokenizer
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "smollm2-360m": ("llama", {"tie_word_embeddings": True}, "GPT2Tokenizer"),
    "codellama-7b": ("llama", {"tie_word_embeddings": False, "rope_theta": 1e6}, "LlamaTokenizer"),
    "qwen2.5-coder-0.5b": ("qwen2", {"tie_word_embeddings": True}, "Qwen2Tokenizer"),
    "qwen3-0.6b": ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}, "Qwen2Tokenizer"),
    "starcoder2-3b": ("starcoder2", {"tie_word_embeddings": True, "sliding_window": 128}, "GPT2Tokenizer"),
}
PROBLEM = {"task_id": "T/0", "prompt": "def add(a, b):\n", "entry_point": "add", "canonical_solution": "    return a + b\n", "test": "def check(f):\n    assert f(1, 2) == 3\n"}  # fmt: skip


def write_tokenizer(folder: Path, kind: str) -> int:
    """Write a tokenizer of a class, trained on generated functions; return the size of its vocabulary."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    pieces = kind == "LlamaTokenizer"  # SentencePiece's: blanks are ▁, other bytes fall back to <0x..>
    raw = Tokenizer(models.BPE(byte_fallback=pieces, unk_token="<unk>" if pieces else None))
    if pieces:
        raw.normalizer = normalizers.Replace(" ", "▁")
        special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        alphabet = []
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special, alphabet = ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False)  # fmt: skip
    raw.train_from_iterator(
        [row["prompt"] + row["completion"] for row in generated_functions(100, 1)], trainer
    )
    model = json.loads(raw.to_str())["model"]
    end = "</s>" if pieces else "<|endoftext|>"
    names = {"eos_token": end, "unk_token": "<unk>" if pieces else end, "pad_token": end}
    names |= {"bos_token": "<s>"} if pieces else {}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = getattr(transformers, kind)(
        vocab=model["vocab"], merges=merges, model_max_length=512, **names
    )
    tokenizer.save_pretrained(folder)
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**config, "tokenizer_class": kind})
    return len(tokenizer)


def write_family(folder: Path, kind: str, changes: dict[str, Any], tokenizer: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    size = write_tokenizer(folder, tokenizer)
    config = AutoConfig.for_model(kind, vocab_size=size, **{**SIZE, **changes})
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def write_rows(path: Path) -> None:
    empty = dict.fromkeys(row_schema().names)
    fixed = {"source": "s", "licence": "MIT", "metadata": "{}"}
    rows = [
        {**empty, **fixed, **row, "id": f"{number:08x}", "component": f"{number:08x}"}
        for number, row in enumerate(generated_functions(24))
    ]
    schema = row_schema().append(pa.field("component", pa.string(), nullable=False))
    write_parquet(path, pa.Table.from_pylist(rows, schema=schema))


@pytest.mark.slow
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_preset_of_each_family_runs_from_base_to_evaluate(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.base.__main__ import main as base
    from stages.evaluate.__main__ import main as evaluate
    from stages.merge.__main__ import main as merge
    from stages.pack.__main__ import main as pack
    from stages.train.__main__ import main as train

    monkeypatch.chdir(REPOSITORY)
    sections = compose_config(f"base={preset}", "prompt=alpaca", "train.quantization=nf4")
    monkeypatch.chdir(tmp_path)
    write_family(tmp_path / "models/mine", *FAMILIES[preset])
    write_rows(tmp_path / "data/clean/rows.parquet")
    (tmp_path / "data/benchmarks").mkdir()
    (tmp_path / "data/benchmarks/tiny.jsonl").write_text(json.dumps(PROBLEM) + "\n", "utf-8")
    (tmp_path / "requirements.lock").write_text("torch==0\n", "utf-8")
    scoring = {"tiny": next(iter(sections["evaluate"].scoring.values()))}
    sections |= {
        "base": replace(sections["base"], kind="local", path="models/mine"),
        "pack": PackSettings(max_length=512, validation_share=0.2),
        "train": replace(sections["train"], max_steps=2, micro_batch=2, threads=1, eval_tokens=0),
        "track": replace(sections["track"], live=False, peak_seconds=0),
        "evaluate": replace(
            sections["evaluate"], target="tuned", scoring=scoring, max_new_tokens=8, workers=1
        ),
    }
    facts = base(Settings("base", sections))
    assert facts["reads_documents"] == "together"
    assert pack(Settings("pack", sections))["rows_dropped"] == {}
    trained = train(Settings("train", sections))
    assert trained is not None
    assert trained["steps"] == 2
    merged = merge(Settings("merge", sections))
    assert merged["mean_kl"] <= sections["merge"].max_mean_kl
    assert evaluate(Settings("evaluate", sections))["tried"] == 1


# Shapes from the models' own config.json, and the GPU that a preset is named for
GPUS = {
    "gpu-16gb": (16, {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True}),
    "gpu-24gb": (24, {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}),
    "gpu-80gb": (80, {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}),
}  # fmt: skip


@pytest.mark.parametrize("preset", GPUS)
def test_a_gpus_preset_fits_and_says_what_it_takes(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    from stages.common.model.shapes import empty_model, model_shapes
    from stages.plan.data_estimate import full_batch
    from stages.plan.memory import adapted_layers, evaluate_bytes, gate_bytes, memory_parts, required_bytes

    monkeypatch.chdir(REPOSITORY)
    sections = compose_config(f"experiment={preset}")
    train, (size, shape) = sections["train"], GPUS[preset]
    assert sections["base"].name.startswith("Qwen/Qwen2.5-Coder-")
    assert (train.gradient_checkpointing, sections["pack"].max_length >= 2048) == (True, True)
    model = empty_model(AutoConfig.for_model("qwen2", **shape))
    shapes, layers = model_shapes(model), adapted_layers(model, train.lora)
    batch = full_batch(sections["pack"], train.micro_batch)
    needed = required_bytes(memory_parts(shapes, train, batch, layers, cuda=True)) / 2**30
    free = int(size * 1e9 * 0.95)
    later = max(gate_bytes(shapes, sections, True), evaluate_bytes(shapes, sections["evaluate"], free, True))
    assert max(needed * 2**30, later) < 0.9 * free
    heading = Path(f"conf/experiment/{preset}.yaml").read_text("utf-8").partition("\ndefaults")[0]
    assert f"{needed:.1f} GiB" in heading


def test_every_model_of_the_hub_is_pinned_and_says_what_it_takes() -> None:
    for file in (REPOSITORY / "conf/base").glob("*.yaml"):
        text = file.read_text("utf-8")
        given = yaml.safe_load(text)
        BaseSettings(**given)
        if given["kind"] == "hub" and file.stem != "hub":
            assert "not measured" in text
            assert "GB on disk" in text
