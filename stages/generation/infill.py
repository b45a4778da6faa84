"""Render a problem whose middle the model fills in, with the tokenizer's own tokens for that."""

from collections.abc import Sequence
from typing import Any

from stages.common.core.errors import UserError
from stages.common.text.tokens import guard

# Before the prefix, before the suffix, before the middle
FILL_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2, Granite, SmolLM2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)


def render_infill(prefix: str, suffix: str, tokenizer: Any, allowed: Sequence[str] = ()) -> str:
    """Return the text whose continuation is the middle.

    Raises:
        UserError: the tokenizer has no tokens for it.
    """
    known = tokenizer.get_vocab()
    for before, between, middle in FILL_TOKENS:
        if {before, between, middle} <= known.keys():
            given, after = (guard(text, tokenizer, allowed) for text in (prefix, suffix))
            return before + given + between + after + middle
    raise UserError(
        "this tokenizer has no tokens for filling in the middle: known are "
        f"{', '.join(tokens[0] for tokens in FILL_TOKENS)} and their kin. Choose a model trained for it "
        "(Qwen2.5-Coder, StarCoder2, CodeLlama, DeepSeek-Coder, CodeGemma), or leave the benchmark out of "
        "evaluate.benchmarks."
    )
