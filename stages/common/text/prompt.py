"""Rows and problems as text: the one rendering code of training and evaluation (stages.common.text.tokens goes on to ids).

A document is a prompt, which the model reads, and a completion, which it is trained on. Evaluation stops after the
prompt. Both come from here, so that a model is asked in exactly the tokens that it was trained behind.

A function header (code whose missing part is a body, as HumanEval's prompts are) is continued as it stands in
style `completion`; in the others it is put into an instruction, and the answer is begun for the model with
a code fence and the header again, so that in every style what follows the prompt is the body.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stages.common.errors import UserError
from stages.common.headers import is_function_header
from stages.common.text.pieces import pieces_of, plain_ids
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import Unrenderable, every_answer, opening, templated_answer
from stages.common.text.tokens import special_tokens

FENCE = "```python\n"
CLOSE = "\n```"


def render_prompt(prompt: str, tokenizer: Any, settings: PromptSettings) -> str:
    """The text behind which a model goes on, for a benchmark's prompt.

    Raises:
        UserError: style chat with a tokenizer that has no template, or whose template refuses the messages.
    """
    header = is_function_header(prompt)
    kept, _ = boundary(one_break(prompt) if header else prompt, tokenizer)
    if settings.style == "completion":
        return kept
    try:
        if header:
            return opening(wrapped(prompt, settings), tokenizer, settings) + FENCE + kept.lstrip()
        return opening(prompt, tokenizer, settings)
    except Unrenderable as error:
        raise UserError(
            f"prompt.style={settings.style}: the template refuses the benchmark's prompt "
            f"({error.__cause__ or error}). Set prompt.system to '' or choose another style."
        ) from error


def render_row(row: dict[str, Any], tokenizer: Any, settings: PromptSettings) -> tuple[str, ...]:
    """Prompt text and completion text (without end-of-text token) of a row of data/clean.

    With several answers to train on, their prompts and they in turn: each prompt is what comes since the answer before.

    Raises:
        Unrenderable: the style cannot show the row.
        UserError: style chat with a tokenizer that has no template; a template of the settings that fails.
    """
    if row["messages"] is not None:
        messages = [(message["role"], message["content"] or "") for message in row["messages"]]
        refuse_special([content for _, content in messages], tokenizer)
        return render_conversation(messages, tokenizer, settings)
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    refuse_special([prompt, completion], tokenizer)
    if not completion.strip():
        raise Unrenderable("empty_completion")
    if not prompt.strip():
        return "", prompt + completion  # plain text: no style has a place for a question here
    if settings.style == "completion":
        return continued(prompt, completion, tokenizer)
    if is_function_header(prompt):
        header, body = continued(prompt, completion, tokenizer)
        asked = wrapped(prompt, settings)
        return answered(asked, FENCE + header.lstrip(), body.rstrip() + CLOSE, tokenizer, settings)
    return answered(prompt, "", completion, tokenizer, settings)


def render_conversation(
    messages: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    """Prompt and completion of a conversation: what is trained on is its last assistant turn, or all by `prompt.loss`.

    Raises:
        Unrenderable: `conversation` (not one question and one answer, in a style for those), `no_answer`.
    """
    last = max((i for i, (role, _) in enumerate(messages) if role == "assistant"), default=-1)
    if last < 0 or not messages[last][1].strip():
        raise Unrenderable("no_answer")
    before, answer = list(messages[:last]), messages[last][1]
    if settings.style == "template":
        return opening(before, tokenizer, settings), answer.strip()
    if settings.style == "chat" and settings.loss == "all":
        return every_answer(messages[: last + 1], tokenizer, settings)
    if settings.style == "chat":
        asked = opening(before, tokenizer, settings)
        return asked, templated_answer(before, asked, answer, tokenizer, settings)
    if [role for role, _ in messages] != ["user", "assistant"]:
        raise Unrenderable("conversation")
    question = before[0][1]
    if settings.style == "completion":
        return continued(question, answer if question[-1:].isspace() else "\n" + answer, tokenizer)
    return answered(question, "", answer, tokenizer, settings)


def answered(
    question: str, begun: str, rest: str, tokenizer: Any, settings: PromptSettings
) -> tuple[str, str]:
    """A question and its answer in style alpaca or chat; `begun` is the part of the answer that is given."""
    if not begun:
        rest = rest.lstrip("\n")  # else they would merge with what the opening ends in
    asked = opening(question, tokenizer, settings)
    if settings.style != "chat":
        return asked + begun, rest.rstrip()
    turn = [("user", question.strip())]
    prompt = asked + begun
    return prompt, templated_answer(turn, prompt, begun + rest, tokenizer, settings)


def wrapped(header: str, settings: PromptSettings) -> str:
    """The instruction that shows a function header."""
    return f"{settings.instruction}\n\n{FENCE}{header.strip()}{CLOSE}"


def continued(prompt: str, completion: str, tokenizer: Any) -> tuple[str, str]:
    """Prompt and completion with the white space between them on the side where `boundary` wants it.

    A function header that keeps its line break keeps one: blank lines before a body, which evaluation knows nothing
    of, go.
    """
    text = prompt + completion
    body = completion.lstrip()
    before = text[: len(text) - len(body)]
    white = before[len(before.rstrip()) :]
    if white.startswith("\n") and white.count("\n") == 1:  # the same for a header and for other text
        kept, _ = boundary(before, tokenizer)
        return kept, text[len(kept) :]
    header = "\n" in white and is_function_header(prompt)
    kept, _ = boundary(one_break(before) if header else before, tokenizer)
    if header and kept.endswith("\n"):
        return kept, before[before.rfind("\n") + 1 :] + body
    return kept, text[len(kept) :]


def one_break(prompt: str) -> str:
    return prompt.rstrip() + "\n"


def boundary(prompt: str, tokenizer: Any) -> tuple[str, str]:
    """Split off the white space at a prompt's end that belongs to the tokens of what follows.

    Tokenizers merge a line break with the indent behind it (one token for newline and four spaces), so a prompt
    that ends in a bare newline asks for a token sequence the model has never seen: HumanEval pass@1 of
    SmolLM2-135M falls from 0.04 to 0. Others (GPT-4's kind) merge it with the punctuation before it, and
    want it kept (bigcode-evaluation-harness #159). Which kind this is, the tokenizer itself tells.
    """
    kept = prompt.rstrip()
    white = prompt[len(kept) :]
    breaks = white[: len(white) - len(white.lstrip("\n"))]
    if not kept or not breaks:
        return kept, white
    tail = kept[kept.rfind("\n") + 1 :][-80:]
    tail = pieces_of(tokenizer).pieces_in(tail)[-1]  # the tokens before are the same alone and followed
    if breaks_apart(tail, breaks, tokenizer):
        return kept, white
    return kept + breaks, white[len(breaks) :]


@lru_cache(maxsize=1 << 14)
def breaks_apart(tail: str, breaks: str, tokenizer: Any) -> bool:
    """Whether the tokens of a line's end stay the same with line breaks and an indent behind it."""
    alone, followed = plain_ids([tail, f"{tail}{breaks}    x"], tokenizer)
    return followed[: len(alone)] == alone


def refuse_special(texts: Sequence[str], tokenizer: Any) -> None:
    """Text that spells a special token would become that token, and end or split the document.

    Raises:
        Unrenderable: `special_token`.
    """
    pattern = special_pattern(tokenizer)
    if any(pattern.search(text) for text in texts):
        raise Unrenderable("special_token")


@lru_cache(maxsize=4)
def special_pattern(tokenizer: Any) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, special_tokens(tokenizer).values())))
