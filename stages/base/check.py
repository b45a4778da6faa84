"""Check that a folder holds a model that the other stages can load."""

import hashlib
import math
from pathlib import Path
from typing import Any

from stages.base.portable import make_portable
from stages.common.core.errors import UserError, one_line
from stages.common.core.files import read_json, sha256_file
from stages.common.model.coverage import LOADING_INFO, refuse_uncovered, silence_transformers
from stages.common.model.mergeable import refuse_unmergeable
from stages.common.model.trial import must_read_alone
from stages.common.model.weight_files import stored_tensors, weight_files


def check_model_folder(folder: Path, name: str) -> dict[str, Any]:
    """Check a model folder, make its files readable elsewhere, and return what the report says of it.

    Args:
        name: what messages call the folder.

    Raises:
        UserError: configuration, weights or tokenizer are missing or unreadable, or no later stage could train,
            merge or score the model.
    """
    config = read_model_config(folder, name)
    stored = stored_tensors(folder, name)
    tokenizer = check_tokenizer(folder, name)
    text = config.get("text_config", config)
    vocabulary = text.get("vocab_size", 0)
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but the model only {vocabulary}: they do "
            "not belong together"
        )
    rewritten = make_portable(folder, tokenizer)
    check_coverage(folder, name)
    refuse_unmergeable(folder, name)
    return {
        "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
        "parameters": sum(math.prod(tensor.shape) for tensor in stored.values()),
        "vocabulary": vocabulary,
        "context": text.get("max_position_embeddings"),
        "chat_template": bool(tokenizer.chat_template),
        "reads_documents": "alone" if must_read_alone(folder, where=name) else "together",
        "rewritten": rewritten,
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


def check_coverage(folder: Path, name: str) -> None:
    """Raise UserError if the files lack a tensor of the model, hold others, or the model is unknown; load no weight."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    silence_transformers()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(
                f"{name}: transformers has no causal language model of model_type {config.model_type}; models that also "
                "read images or sound mostly have none. Choose the text-only base."
            )
        _, info = AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": "meta"}, local_files_only=True, **LOADING_INFO
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{name}: transformers cannot load the model ({one_line(error, 200)})") from error
    refuse_uncovered(name, info)


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
    sums = [sha256_file(file) for file in weight_files(folder)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
