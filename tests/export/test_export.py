"""export: GGUF files hold the merged model; transformers' own reader agrees."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from stages.common.core.errors import UserError
from stages.common.core.files import write_jsonl
from stages.common.rows.schema import Problem
from stages.common.text.settings import PromptSettings
from stages.evaluate import scored_benchmark
from stages.evaluate.settings import EvaluateSettings, ScoringSettings
from stages.export import __main__ as export
from stages.export.architectures import architecture_of
from stages.export.gguf_file import read_gguf, read_weights, write_gguf
from stages.export.modelfile import ollama_modelfile
from stages.export.vocabulary import pre_tokenizer_name
from stages.generation.completion import Completion, SampleRequest

DIGITS = {"type": "Digits", "individual_digits": True}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture(params=["llama", "qwen2"])
def merged(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project with a merged model of an architecture: tied embeddings, fewer keys than queries."""
    folder = tmp_path / "models/merged"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocabulary = json.loads((tiny_model / "config.json").read_text("utf-8"))["vocab_size"]
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    }
    model, config = kinds[request.param]
    model(
        config(**SIZES, vocab_size=vocabulary, tie_word_embeddings=True, rope_theta=5000.0)
    ).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "compose_config", lambda: {"prompt": PromptSettings()})
    return folder


def run(*formats: str) -> dict[str, Any]:
    export.main(argparse.Namespace(formats=list(formats), score=False))
    return json.loads(Path("models/export/export.json").read_text("utf-8"))


def test_each_format_is_read_back_as_the_merged_model(merged: Path) -> None:
    facts = run("f16", "q8_0", "q4_0")
    assert facts["f16"]["mean_kl"] < 1e-6
    assert facts["f16"]["bytes"] > facts["q8_0"]["bytes"] > facts["q4_0"]["bytes"]
    assert facts["f16"]["same_top_token"] == 1.0
    assert Path("models/export/Modelfile").read_text("utf-8").startswith("FROM ./model-q8_0.gguf\n")
    assert not [path for path in Path("models/export").iterdir() if path.is_dir()]


def test_transformers_reads_the_same_logits(merged: Path) -> None:
    run("f16")
    theirs = AutoModelForCausalLM.from_pretrained(
        "models/export", gguf_file="model-f16.gguf", dtype=torch.float32
    )
    ours = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = torch.tensor([[5, 9, 31, 7, 12]])
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs.eval()(input_ids=ids).logits, ours.eval()(input_ids=ids).logits, rtol=1e-2, atol=1e-3
        )


def test_rows_of_queries_and_keys_come_back(merged: Path, tmp_path: Path) -> None:
    architecture = architecture_of(merged)
    write_gguf(merged, tmp_path / "x.gguf", architecture, "f16")
    weights = dict(read_weights(merged))
    names = [name for name in weights if name != "lm_head.weight"]
    for name, found in read_gguf(tmp_path / "x.gguf", names, architecture).items():
        np.testing.assert_allclose(found, weights[name], atol=1e-3, err_msg=name)


def test_a_file_that_holds_another_model_is_refused_and_nothing_is_left(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "read_gguf", lambda *a: {n: w * 2 for n, w in read_gguf(*a).items()})
    with pytest.raises(UserError, match="f16: the file does not hold the merged model"):
        run("f16")
    assert not Path("models/export").exists()


def test_a_full_disk_is_known_before_anything_is_written(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GiB are free"):
        run("f16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, "architecture gemma2"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "scaled by yarn"),
    ],
)
def test_what_gguf_is_not_written_of_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = {"model_type": "llama", **change}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UserError, match=message):
        architecture_of(tmp_path)


def test_the_modelfile_has_the_template_of_the_training() -> None:
    plain = ollama_modelfile("m.gguf", PromptSettings(), "<|end|>")
    assert 'TEMPLATE """{{ .Prompt }}"""' in plain
    assert 'PARAMETER stop "<|end|>"' in plain
    alpaca = ollama_modelfile("m.gguf", PromptSettings(style="alpaca"), "</s>")
    assert "### Instruction:\n{{ .Prompt }}\n\n### Response:\n" in alpaca
    assert "TEMPLATE" not in ollama_modelfile("m.gguf", PromptSettings(style="chat"), "<|im_end|>")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, {"type": "ByteLevel"}]}, "smollm"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Split"}, DIGITS, {"type": "ByteLevel"}]}, None),
        ({"type": "Metaspace"}, None),
    ],
)
def test_the_name_of_what_cuts_words(parts: dict[str, Any], name: str | None) -> None:
    assert pre_tokenizer_name(parts) == name


def test_a_file_is_scored_beside_the_merged_model(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = "def check(candidate):\n    assert candidate(2) == 4\n"
    problems = [
        Problem(f"T/{i}", f"def twice{i}(x):\n", f"twice{i}", "    return 2 * x\n", check) for i in range(3)
    ]
    answers = {problem.prompt: "    return x + x\n" for problem in problems[:2]}

    def generate(requests: list[SampleRequest], *arguments: Any, **options: Any) -> list[Completion]:
        made = [Completion(answers.get(one.prompt, "    return x\n"), 5, "eos") for one in requests]
        for index, completion in enumerate(made):
            arguments[3](index, completion)
        return made

    monkeypatch.setattr(scored_benchmark, "generate", generate)
    Path("data/benchmarks").mkdir(parents=True)
    write_jsonl(Path("data/benchmarks/tiny.jsonl"), [problem.row() for problem in problems])
    export.SAMPLES.parent.mkdir(parents=True)
    rows = [
        {
            "benchmark": "tiny",
            "task_id": problem.task_id,
            "sample": 0,
            "prompt": "",
            "completion": "",
            "verdict": verdict,
        }
        for problem, verdict in zip(problems, ("passed", "wrong_answer", "passed"), strict=True)
    ]
    write_jsonl(export.SAMPLES, rows)
    settings = {"evaluate": EvaluateSettings(scoring={"tiny": ScoringSettings()}), "prompt": PromptSettings()}
    found = export.score(merged, settings, "f16")
    assert found == {"passed": 2, "tried": 3, "won": 1, "lost": 1, "p": 1.0}
    assert not list(Path(".cache/evaluate/tuned").glob("*")), (
        "an interrupted evaluation's samples are not touched"
    )
