"""Make a model folder say the same to transformers 4 and 5, to vLLM and to `generate`, and name no file it lacks.

transformers 5 writes some settings where version 4 does not look: it would take rope_theta 10,000 without a word.
"""

import json
from pathlib import Path
from typing import Any

from stages.common.core.files import read_json

# A class that both versions know, for the one that version 5 writes
TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# How this folder was loaded, which version 5 keeps with the tokenizer
LOADING_OPTIONS = ("is_local", "local_files_only")


def make_portable(folder: Path, tokenizer: Any) -> list[str]:
    """Rewrite config.json, tokenizer_config.json and generation_config.json where needed; return the rewritten names."""
    edits = {
        "config.json": portable_config,
        "tokenizer_config.json": portable_tokenizer,
        "generation_config.json": lambda found: with_end(found, tokenizer.eos_token_id),
    }
    rewritten = []
    for name, edit in edits.items():
        found = read_json(folder / name) if (folder / name).is_file() else {}
        edited = edit(found)
        if found and edited != found:
            # in their own order, unlike write_json: files of others stay comparable
            (folder / name).write_text(json.dumps(edited, indent=2, ensure_ascii=False) + "\n", "utf-8")
            rewritten.append(name)
    return rewritten


def portable_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return config.json with rope also where version 4 reads it, and without classes of files that are not copied."""
    edited = {key: value for key, value in config.items() if key != "auto_map"}
    if isinstance(config.get("text_config"), dict):
        edited["text_config"] = portable_config(config["text_config"])
    if config.get("dtype"):
        edited.setdefault("torch_dtype", config["dtype"])
    for key, value in legacy_rope(config.get("rope_parameters") or {}).items():
        edited.setdefault(key, value)
    return edited


def legacy_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Return version 4's keys for `rope_parameters`, which may have an entry for each kind of layer (Gemma 3)."""
    local = rope.get("sliding_attention")
    if local is not None:
        return {**legacy_rope(rope["full_attention"]), "rope_local_base_freq": local["rope_theta"]}
    legacy: dict[str, Any] = {
        key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope
    }
    if rope.get("rope_type", "default") != "default":
        legacy["rope_scaling"] = {key: value for key, value in rope.items() if key not in legacy}
    return legacy


def portable_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json as version 4 reads it too."""
    edited = {key: value for key, value in config.items() if key not in ("auto_map", *LOADING_OPTIONS)}
    if config.get("tokenizer_class") in TOKENIZER_CLASSES:
        edited["tokenizer_class"] = TOKENIZER_CLASSES[config["tokenizer_class"]]
    if isinstance(config.get("extra_special_tokens"), list):  # version 4 takes only names for tokens there
        edited["additional_special_tokens"] = edited.pop("extra_special_tokens")
    return edited


def with_end(config: dict[str, Any], end: int) -> dict[str, Any]:
    """Return generation_config.json whose end tokens include the one that ends each document of training."""
    declared = config.get("eos_token_id")
    ends = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return config if end in ends else {**config, "eos_token_id": [*ends, end] if ends else end}
