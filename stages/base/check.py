"""Check that a folder holds a model that the other stages can load."""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError, one_line
from stages.common.core.files import read_json, sha256_file
from stages.common.model.coverage import LOADING_INFO, refuse_uncovered, silence_transformers


def check_model_folder(folder: Path, name: str) -> dict[str, Any]:
    """Check a model folder; return its architecture, parameters, vocabulary, context (tokens) and sha256.

    Raises:
        UserError: configuration, weights or tokenizer are missing or unreadable.
    """
    config = read_model_config(folder, name)
    shapes = tensor_shapes(folder, name)
    tokenizer = check_tokenizer(folder, name)
    text = config.get("text_config", config)
    vocabulary = text.get("vocab_size", 0)
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but the model only {vocabulary}: they do "
            "not belong together"
        )
    check_coverage(folder, name)
    return {
        "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "vocabulary": vocabulary,
        "context": text.get("max_position_embeddings"),
        "chat_template": bool(tokenizer.chat_template),
        "weights_sha256": weights_sha256(folder),
    }


def read_model_config(folder: Path, name: str) -> dict[str, Any]:
    """Read config.json; write a generation_config.json beside it if the folder has none.

    Raises:
        UserError: there is no config.json, or the weights are quantized.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{name}: no config.json, so this is not a Hugging Face model folder")
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UserError(f"{name}: its weights are already quantized ({method}). Use the unquantized model.")
    if not (folder / "generation_config.json").exists():
        from transformers import AutoConfig, GenerationConfig

        GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        ).save_pretrained(folder)
    return config


def tensor_shapes(folder: Path, name: str) -> dict[str, list[int]]:
    """Return the shape of each tensor, read from the headers of the safetensors files.

    Raises:
        UserError: there are none, a shard of the index is missing, or a file is truncated.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    listed = set(read_json(index)["weight_map"].values()) if index.exists() else set()
    missing = sorted(listed.difference(file.name for file in files))
    if missing or not files:
        raise UserError(f"{name}: the folder lacks the weights {', '.join(missing) or '(*.safetensors)'}")
    return {tensor: shape for file in files for tensor, shape in safetensors_shapes(file, name).items()}


def check_coverage(folder: Path, name: str) -> None:
    """Raise UserError if the files lack a tensor of the model, hold others, or the model is unknown; load no weight."""
    from transformers import AutoModelForCausalLM

    silence_transformers()
    try:
        _, info = AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": "meta"}, local_files_only=True, **LOADING_INFO
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{name}: transformers cannot load the model ({one_line(error, 200)})") from error
    refuse_uncovered(name, info)


def safetensors_shapes(file: Path, name: str) -> dict[str, list[int]]:
    """Read a safetensors file's tensor shapes; it has 8 bytes of length, a JSON header, then the tensors."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {tensor: entry["shape"] for tensor, entry in entries.items()}
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError):
        raise UserError(f"{name}: {file.name} is not a safetensors file") from None
    if file.stat().st_size != end:
        raise UserError(
            f"{name}: {file.name} is truncated or damaged: it has {file.stat().st_size:,} bytes, its header "
            f"says {end:,}"
        )
    return shapes


def check_tokenizer(folder: Path, name: str) -> Any:
    """Load the folder's tokenizer and check it.

    Raises:
        UserError: it cannot be loaded, or has no end-of-sequence token, which ends each training document.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{name}: its tokenizer cannot be loaded ({one_line(error, 200)})") from error
    if len(tokenizer) == 0:
        raise UserError(f"{name}: it has no tokenizer, or one with an empty vocabulary")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token (eos_token)")
    return tokenizer


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights: of the only file, or over the hex sha256s of the shards in order."""
    sums = [sha256_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
