"""Limits that the base model's config.json sets: its context and its vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def check_context(model: Path, max_length: int) -> int | None:
    """Return the model's context in tokens, None if its config.json does not give one.

    Raises:
        UserError: config.json is missing, or `max_length` exceeds the context.
    """
    context = configured_context(read_json(model / "config.json"))
    if context is not None and max_length > context:
        raise UserError(
            f"pack.max_length is {max_length}, but the context of {model} is {context} tokens (config.json). "
            f"Set pack.max_length to {context} or less."
        )
    return context


def configured_context(config: Mapping[str, Any]) -> int | None:
    """Return the context in tokens of a model with this config.json, None if it does not give one."""
    sections = [config, config.get("text_config") or {}]
    return next((section[key] for section in sections for key in CONTEXT_KEYS if section.get(key)), None)


def vocabulary_size(model: Path) -> int:
    """Return the number of tokens the model knows, 0 if its config.json does not give it."""
    config = read_json(model / "config.json")
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 0
