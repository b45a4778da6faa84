"""Fill in the middle: cut a row's text into prefix, middle and suffix, and render what the middle follows.

Training and HumanEval-Infilling render alike. The order is prefix, suffix, middle (PSM), or suffix, prefix,
middle (SPM) in the form that the prefix follows the token before the middle, so that prefix and middle are
one running text (arXiv 2207.14255, section 3; StarCoder and CodeLlama train on both).
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from stages.common.rows.headers import is_function_header
from stages.common.text.fill_tokens import FillTokens, fill_tokens
from stages.common.text.settings import PromptSettings
from stages.common.text.spans import random_span, syntax_spans
from stages.common.text.tokens import guard


class Cut(NamedTuple):
    """A text in three parts, which joined are the text."""

    prefix: str
    middle: str
    suffix: str
    # render the suffix first (SPM)
    suffix_first: bool


def render_infill(prefix: str, suffix: str, tokenizer: Any, allowed: Sequence[str] = ()) -> list[str]:
    """Return the texts, encoded one by one, whose continuation is the middle of a benchmark's problem.

    Raises:
        UserError: the tokenizer has no tokens for it.
    """
    tokens = fill_tokens(tokenizer, "leave the benchmark out of evaluate.benchmarks")
    given, after = (guard(text, tokenizer, allowed) for text in (prefix, suffix))
    return before_middle(given, after, tokens, suffix_first=False)


def before_middle(prefix: str, suffix: str, tokens: FillTokens, suffix_first: bool) -> list[str]:
    """Return the texts that the middle follows.

    SentencePiece would put a space before a prefix and a suffix that follow a control token in one text.
    """
    if suffix_first:
        return [tokens.prefix + tokens.suffix, suffix, tokens.middle, prefix]
    return [tokens.prefix, prefix, tokens.suffix, suffix, tokens.middle]


def cut_row(row: Mapping[str, Any], settings: PromptSettings) -> Cut | None:
    """Cut the text of a row, the same way each time; None for a row that stays as it is.

    Only running text is cut: plain text, and a function whose prompt is its header. `prompt.fim_share` of
    such rows are, selected by their id. Questions with answers and conversations stay as they are.
    """
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if row["messages"] is not None or row.get("tools") or (prompt.strip() and not is_function_header(prompt)):
        return None
    text, random = prompt + completion, Random(f"{settings.fim_seed} {row['id']}")
    chosen, at_syntax, suffix_first = (random.random() for _ in range(3))
    if not text.strip() or chosen >= settings.fim_share:
        return None
    kinds = syntax_spans(text) if at_syntax < settings.fim_syntax_share else []
    start, end = random.choice(random.choice(kinds)) if kinds else random_span(text, random)
    return Cut(text[:start], text[start:end], text[end:], suffix_first < settings.fim_spm_share)
