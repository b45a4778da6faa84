"""What makes a folder a model that the other stages can load."""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_json, sha256_file


def checked_folder(folder: Path, name: str) -> dict[str, Any]:
    """Facts of a model's folder: architecture, parameters, vocabulary, context (tokens), chat template, sha256.

    Raises:
        UserError: configuration, weights or tokenizer is missing or cannot be read.
    """
    config = model_config(folder, name)
    shapes = tensor_shapes(folder, name)
    tokenizer = loaded_tokenizer(folder, name)
    text = config.get("text_config", config)
    vocabulary = text.get("vocab_size", 0)
    if len(tokenizer) > vocabulary:
        raise UserError(f"{name}: the tokenizer has {len(tokenizer)} tokens, the model only {vocabulary}")
    return {
        "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "vocabulary": vocabulary,
        "context": text.get("max_position_embeddings"),
        "chat_template": bool(tokenizer.chat_template),
        "weights_sha256": weights_sha256(folder),
    }


def model_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json, and generation_config.json written beside it where the source has none."""
    if not (folder / "config.json").exists():
        raise UserError(f"{name}: no config.json; that is no Hugging Face model folder")
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UserError(f"{name}: its weights are quantized already ({method}); take the unquantized model")
    if not (folder / "generation_config.json").exists():
        from transformers import AutoConfig, GenerationConfig

        GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        ).save_pretrained(folder)
    return config


def tensor_shapes(folder: Path, name: str) -> dict[str, list[int]]:
    """Shape of each tensor, read from the headers of the safetensors files.

    Raises:
        UserError: there are none, a shard that the index names is missing, or a file is cut.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    listed = set(read_json(index)["weight_map"].values()) if index.exists() else set()
    missing = sorted(listed.difference(file.name for file in files))
    if missing or not files:
        raise UserError(f"{name}: no weights {', '.join(missing) or '(*.safetensors)'} in the folder")
    return {tensor: shape for file in files for tensor, shape in header(file, name).items()}


def header(file: Path, name: str) -> dict[str, list[int]]:
    """Tensor shapes of one safetensors file: 8 bytes of length, a JSON header, then the tensors' bytes."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {tensor: entry["shape"] for tensor, entry in entries.items()}
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError):
        raise UserError(f"{name}: {file.name} is no safetensors file") from None
    if file.stat().st_size != end:
        raise UserError(f"{name}: {file.name} is cut: {file.stat().st_size:,} bytes, its header says {end:,}")
    return shapes


def loaded_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer, from the folder alone.

    Raises:
        UserError: it cannot be loaded, or has no end-of-sequence token (training ends each document with it).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{name}: no tokenizer that loads ({' '.join(str(error).split())[:200]})") from error
    if len(tokenizer) == 0:
        raise UserError(f"{name}: no tokenizer: its vocabulary is empty")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token (eos_token)")
    return tokenizer


def weights_sha256(folder: Path) -> str:
    """The sum of the weights: of the one file, or over the sums of the shards in order."""
    sums = [sha256_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
