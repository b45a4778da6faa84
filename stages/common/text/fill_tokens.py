"""The tokens with which models fill in the middle, by family, as their tokenizers spell them."""

from functools import lru_cache
from typing import Any, NamedTuple

from stages.common.core.errors import UserError


class FillTokens(NamedTuple):
    """What stands before the prefix, before the suffix and before the middle, and what ends a middle.

    `end` is "" where the end-of-text token alone ends it.
    """

    prefix: str
    suffix: str
    middle: str
    end: str = ""


FILL_TOKENS = (
    # Qwen2.5-Coder; CodeGemma, whose models end a middle with <|file_separator|> or end-of-text
    FillTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    FillTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2, Granite
    FillTokens("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    FillTokens("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),  # CodeLlama (arXiv 2308.12950, section 2.3)
    FillTokens("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
# All of them. Some tokenizers (Qwen2.5-Coder's) do not declare theirs special
FILL_NAMES = frozenset(name for family in FILL_TOKENS for name in family if name)
OTHER_STYLE = "choose another prompt.style"


@lru_cache(maxsize=4)
def fill_tokens(tokenizer: Any, otherwise: str) -> FillTokens:
    """Return the tokenizer's tokens.

    Args:
        otherwise: what to do instead of choosing another model, for the error.

    Raises:
        UserError: it has none.
    """
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    for family in FILL_TOKENS:
        if {*family[:3]} <= known:
            return family if family.end in known else family._replace(end="")
    raise UserError(
        "this tokenizer has no tokens for filling in the middle: known are "
        f"{', '.join(family.prefix for family in FILL_TOKENS)} and their kin. Choose a model trained for it "
        f"(Qwen2.5-Coder, StarCoder2, CodeLlama, DeepSeek-Coder, CodeGemma), or {otherwise}."
    )
