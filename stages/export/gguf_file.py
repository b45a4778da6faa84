"""Write a model as a GGUF file, and read its weights back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.errors import UserError
from stages.export.architectures import Architecture
from stages.export.vocabulary import add_vocabulary

# Formats, and what of them the embeddings and the head are held in: they lose most
FORMATS = {"f16": ("F16", "F16"), "q8_0": ("Q8_0", "Q8_0"), "q4_0": ("Q4_0", "Q8_0")}
EMBEDDINGS = ("embed_tokens", "lm_head")


def tensor_type(name: str, weight: np.ndarray, form: str) -> Any:
    """Return gguf's type of a tensor: vectors stay float32, as llama.cpp has them."""
    import gguf

    if weight.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    matrices, embeddings = FORMATS[form]
    found = gguf.GGMLQuantizationType[embeddings if any(part in name for part in EMBEDDINGS) else matrices]
    block = gguf.GGML_QUANT_SIZES[found][0]
    if weight.shape[-1] % block:
        raise UserError(
            f"{name}: {weight.shape[-1]} columns are no multiple of the {block} of a block of {form}. Export f16."
        )
    return found


def read_weights(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a folder's safetensors as float32, one at a time, in order of their names."""
    import torch
    from safetensors import safe_open

    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name).to(torch.float32).numpy()


def write_gguf(model: Path, path: Path, architecture: Architecture, form: str) -> None:
    """Write the model of a folder in a format of FORMATS.

    Raises:
        UserError: a tensor or the tokenizer has no place in GGUF.
    """
    import gguf
    from gguf.quants import quantize

    config = architecture.config
    writer = gguf.GGUFWriter(path, architecture.name)
    writer.add_name(str(config.get("_name_or_path") or "codetune"))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(architecture.layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(architecture.heads)
    writer.add_head_count_kv(architecture.key_heads)
    writer.add_key_length(architecture.head_size)
    writer.add_value_length(architecture.head_size)
    writer.add_rope_dimension_count(architecture.head_size)
    writer.add_rope_freq_base(architecture.rope_base)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{FORMATS[form][0]}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, model, config["vocab_size"])
    name_of, tied = architecture.gguf_name(), bool(config.get("tie_word_embeddings"))
    for name, weight in read_weights(model):
        if tied and name == "lm_head.weight":
            continue
        stored = np.ascontiguousarray(architecture.rows_as_stored(name, weight))
        kind = tensor_type(name, stored, form)
        writer.add_tensor(name_of(name), quantize(stored, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path, names: list[str], architecture: Architecture) -> dict[str, np.ndarray]:
    """Return a file's weights (float32) by the names of safetensors, rows in transformers' order."""
    import gguf
    from gguf.quants import dequantize

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    name_of, found = architecture.gguf_name(), {}
    for name in names:
        tensor = stored[name_of(name)]
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        found[name] = architecture.rows_as_stored(name, weight.reshape(tensor.shape[::-1]), back=True)
    return found
