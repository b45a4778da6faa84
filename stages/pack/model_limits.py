"""What the base model's configuration limits: tokens of context, tokens of the vocabulary."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.errors import UserError
from stages.common.files import read_json

if TYPE_CHECKING:
    pass

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def check_context(model: Path, max_length: int) -> int | None:
    """The model's context in tokens, None where its configuration does not say.

    Raises:
        UserError: config.json is missing, or `max_length` is beyond the context.
    """
    config = read_json(model / "config.json")
    sections = [config, config.get("text_config") or {}]
    known = [section[key] for section in sections for key in CONTEXT_KEYS if section.get(key)]
    context = known[0] if known else None
    if context is not None and max_length > context:
        raise UserError(
            f"pack.max_length is {max_length}, but the context of {model} is {context} tokens (config.json). "
            f"Set pack.max_length to {context} or less."
        )
    return context


def vocabulary_of(model: Path) -> int:
    """Tokens that the model knows; 0 where its configuration does not say."""
    config = read_json(model / "config.json")
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 0
