"""Render rows and problems as text, the same way for training and evaluation.

A document is a prompt, which the model reads, and a completion, which it is trained on. Evaluation stops
after the prompt. Both are rendered here, so that evaluation prompts a model with exactly the tokens that
preceded the completion in training. stages.common.text.tokens turns the text into ids.

A function header (code without its body, like HumanEval's prompts) is continued as it is in style
`completion`. The other styles put it into an instruction and begin the answer with a code fence and the
header again. So in every style, what follows the prompt is the body.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stages.common.errors import UserError
from stages.common.headers import is_function_header
from stages.common.text.pieces import pieces_of, plain_ids
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import (
    Unrenderable,
    render_all_answers,
    render_chat_answer,
    render_opening,
)
from stages.common.text.tokens import special_tokens

OPEN_FENCE = "```python\n"
CLOSE_FENCE = "\n```"


def render_prompt(prompt: str, tokenizer: Any, settings: PromptSettings) -> str:
    """Return the text that a model continues, for a benchmark's prompt.

    Raises:
        UserError: style chat with a tokenizer that has no template, or whose template refuses the messages.
    """
    header = is_function_header(prompt)
    kept, _ = split_trailing_space(end_with_one_break(prompt) if header else prompt, tokenizer)
    if settings.style == "completion":
        return kept
    try:
        if header:
            instruction = header_instruction(prompt, settings)
            return render_opening(instruction, tokenizer, settings) + OPEN_FENCE + kept.lstrip()
        return render_opening(prompt, tokenizer, settings)
    except Unrenderable as error:
        raise UserError(
            f"prompt.style={settings.style}: the template refuses the benchmark's prompt "
            f"({error.__cause__ or error}). Set prompt.system to '' or choose another style."
        ) from error


def render_row(row: dict[str, Any], tokenizer: Any, settings: PromptSettings) -> tuple[str, ...]:
    """Return prompt text and completion text (without end-of-text token) of a row of data/clean.

    With several answers to train on, prompts and answers alternate; each prompt is the text since the
    previous answer.

    Raises:
        Unrenderable: the style cannot render the row.
        UserError: style chat with a tokenizer that has no template; prompt.template fails.
    """
    if row["messages"] is not None:
        messages = [(message["role"], message["content"] or "") for message in row["messages"]]
        reject_special_tokens([content for _, content in messages], tokenizer)
        return render_conversation(messages, tokenizer, settings)
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    reject_special_tokens([prompt, completion], tokenizer)
    if not completion.strip():
        raise Unrenderable("empty_completion")
    if not prompt.strip():
        return "", prompt + completion  # plain text: there is no question for a style to format
    if settings.style == "completion":
        return render_continuation(prompt, completion, tokenizer)
    if is_function_header(prompt):
        header, body = render_continuation(prompt, completion, tokenizer)
        instruction = header_instruction(prompt, settings)
        return render_answer(
            instruction, OPEN_FENCE + header.lstrip(), body.rstrip() + CLOSE_FENCE, tokenizer, settings
        )
    return render_answer(prompt, "", completion, tokenizer, settings)


def render_conversation(
    messages: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    """Return prompts and answers of a conversation; in style chat, `prompt.loss` selects the trained ones.

    Raises:
        Unrenderable: `conversation` (not one question and one answer, and the style takes no more),
            `no_answer`.
    """
    last = max((i for i, (role, _) in enumerate(messages) if role == "assistant"), default=-1)
    if last < 0 or not messages[last][1].strip():
        raise Unrenderable("no_answer")
    before, answer = list(messages[:last]), messages[last][1]
    if settings.style == "template":
        return render_opening(before, tokenizer, settings), answer.strip()
    if settings.style == "chat" and settings.loss == "all":
        return render_all_answers(messages[: last + 1], tokenizer, settings)
    if settings.style == "chat":
        prompt = render_opening(before, tokenizer, settings)
        return prompt, render_chat_answer(before, prompt, answer, tokenizer, settings)
    if [role for role, _ in messages] != ["user", "assistant"]:
        raise Unrenderable("conversation")
    question = before[0][1]
    if settings.style == "completion":
        completion = answer if question[-1:].isspace() else "\n" + answer
        return render_continuation(question, completion, tokenizer)
    return render_answer(question, "", answer, tokenizer, settings)


def render_answer(
    question: str, given: str, rest: str, tokenizer: Any, settings: PromptSettings
) -> tuple[str, str]:
    """Return prompt and completion of a question and its answer in style alpaca, chat or template.

    Args:
        given: the beginning of the answer, which is part of the prompt.
        rest: the rest of the answer, which is trained on.
    """
    if not given:
        rest = rest.lstrip("\n")  # line breaks would merge with the end of the opening into one token
    prompt = render_opening(question, tokenizer, settings) + given
    if settings.style != "chat":
        return prompt, rest.rstrip()
    turn = [("user", question.strip())]
    return prompt, render_chat_answer(turn, prompt, given + rest, tokenizer, settings)


def header_instruction(header: str, settings: PromptSettings) -> str:
    """Return the instruction to complete a function header."""
    return f"{settings.instruction}\n\n{OPEN_FENCE}{header.strip()}{CLOSE_FENCE}"


def render_continuation(prompt: str, completion: str, tokenizer: Any) -> tuple[str, str]:
    """Return prompt and completion, with the white space between them placed by `split_trailing_space`.

    A function header whose line break stays in the prompt keeps exactly one: blank lines before the body, of
    which evaluation knows nothing, are dropped.
    """
    text = prompt + completion
    body = completion.lstrip()
    before = text[: len(text) - len(body)]
    white = before[len(before.rstrip()) :]
    if white.startswith("\n") and white.count("\n") == 1:  # the same for a header and for other text
        kept, _ = split_trailing_space(before, tokenizer)
        return kept, text[len(kept) :]
    header = "\n" in white and is_function_header(prompt)
    kept, _ = split_trailing_space(end_with_one_break(before) if header else before, tokenizer)
    if header and kept.endswith("\n"):
        return kept, before[before.rfind("\n") + 1 :] + body
    return kept, text[len(kept) :]


def end_with_one_break(prompt: str) -> str:
    return prompt.rstrip() + "\n"


def split_trailing_space(prompt: str, tokenizer: Any) -> tuple[str, str]:
    """Split off the white space at a prompt's end that the tokenizer merges with what follows.

    Most tokenizers merge a line break with the indent after it (one token for a newline and four spaces). A
    prompt that ends in a bare newline then asks for a token sequence that the model has never seen: HumanEval
    pass@1 of SmolLM2-135M falls from 0.04 to 0. Others (like GPT-4's) merge the line break with the
    punctuation before it and need it kept in the prompt (bigcode-evaluation-harness #159). The tokenizer
    itself shows which kind it is.

    Returns:
        the prompt without that white space, and the white space.
    """
    kept = prompt.rstrip()
    white = prompt[len(kept) :]
    breaks = white[: len(white) - len(white.lstrip("\n"))]
    if not kept or not breaks:
        return kept, white
    tail = kept[kept.rfind("\n") + 1 :][-80:]
    tail = pieces_of(tokenizer).pieces_in(tail)[-1]  # tokens of earlier pieces do not depend on what follows
    if keeps_tokens_before_break(tail, breaks, tokenizer):
        return kept, white
    return kept + breaks, white[len(breaks) :]


@lru_cache(maxsize=1 << 14)
def keeps_tokens_before_break(tail: str, breaks: str, tokenizer: Any) -> bool:
    """Whether the tokens of a line's end stay the same when line breaks and an indent follow."""
    alone, followed = plain_ids([tail, f"{tail}{breaks}    x"], tokenizer)
    return followed[: len(alone)] == alone


def reject_special_tokens(texts: Sequence[str], tokenizer: Any) -> None:
    """Refuse text that spells a special token: it would become that token, and end or split the document.

    Raises:
        Unrenderable: `special_token`.
    """
    pattern = special_pattern(tokenizer)
    if any(pattern.search(text) for text in texts):
        raise Unrenderable("special_token")


@lru_cache(maxsize=4)
def special_pattern(tokenizer: Any) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, special_tokens(tokenizer).values())))
