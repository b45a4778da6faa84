"""Render rows and problems as text, the same way for training and evaluation.

A document is a prompt, which the model reads, and a completion, which it is trained on. Evaluation stops
after the prompt. Both are rendered here, so that evaluation prompts a model with exactly the tokens that
preceded the completion in training. stages.common.text.tokens turns the text into ids; control tokens that
a row's text spells are marked by `guard`.

A function header (code without its body, like HumanEval's prompts) is continued as it is in style
`completion`. Styles alpaca, chat and template put it into an instruction and begin the answer with a code fence and the
header again. So in every style, what follows the prompt is the body. Style `fim` cuts running text in
three (stages.common.text.infill), and renders all else in the style `prompt.ordinary`.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from stages.common.core.errors import UserError
from stages.common.rows.headers import is_function_header
from stages.common.text.fill_tokens import OTHER_STYLE, fill_tokens
from stages.common.text.infill import before_middle, cut_row
from stages.common.text.seam import (
    end_with_one_break,
    render_continuation,
    split_trailing_space,
)
from stages.common.text.settings import PromptSettings
from stages.common.text.templates import (
    Chat,
    ChatTurn,
    Unrenderable,
    answer_lead,
    apply_chat_template,
    ask,
    check_arguments,
    check_read,
    render_all_answers,
    render_last_answer,
    render_opening,
)
from stages.common.text.tokens import GUARD, guard

OPEN_FENCE = "```python\n"
CLOSE_FENCE = "\n```"
EXTRAS = ("tool_calls", "reasoning_content", "name")  # of a turn; only a template can render them


def render_prompt(prompt: str, tokenizer: Any, settings: PromptSettings) -> str:
    """Return the text that a model continues, for a benchmark's prompt.

    Raises:
        UserError: style chat with a tokenizer that has no template, or whose template refuses the messages.
    """
    settings = settings.beside_fim
    prompt = guard(prompt, tokenizer, settings.control_tokens)
    header = is_function_header(prompt)
    kept, _ = split_trailing_space(end_with_one_break(prompt) if header else prompt, tokenizer)
    if settings.style == "completion":
        return kept
    try:
        if header:
            question = ask(header_instruction(prompt, settings))
            opening, lead = render_opening(question, tokenizer, settings), answer_lead(tokenizer, settings)
            return opening + lead + OPEN_FENCE + kept.lstrip()
        return render_opening(ask(prompt), tokenizer, settings)
    except Unrenderable as error:
        raise UserError(
            f"prompt.style={settings.style}: the template refuses the benchmark's prompt "
            f"({error.detail}). Set prompt.system to '' or choose another style."
        ) from error


def render_row(row: dict[str, Any], tokenizer: Any, settings: PromptSettings) -> tuple[str, ...]:
    """Return prompt text and completion text (without end-of-text token) of a row of data/clean.

    With several answers to train on, prompts and answers alternate; each prompt is the text since the
    previous answer. A row whose middle is filled in alternates too, with nothing to train on before the middle.

    Raises:
        Unrenderable: the style cannot render the row.
        UserError: style chat with a tokenizer that has no template; prompt.template fails.
    """
    mark = partial(guard_value, tokenizer=tokenizer, allowed=settings.control_tokens)
    if settings.style == "fim":
        if cut := cut_row(row, settings):
            tokens = fill_tokens(tokenizer, OTHER_STYLE)
            prefix, middle, suffix = mark([*cut[:3]])
            *context, last = before_middle(prefix, suffix, tokens, cut.suffix_first)
            untrained = (part for text in context for part in (text, ""))
            return *untrained, last, middle + tokens.end
        settings = settings.beside_fim
    if row["messages"] is not None:
        tools = json.loads(row["tools"]) if row.get("tools") else None
        return render_conversation(Chat(mark(turns_with_extras(row)), mark(tools)), tokenizer, settings)
    prompt, completion = mark(row["prompt"] or ""), mark(row["completion"] or "")
    if row.get("tools"):
        raise Unrenderable("tools", "the row is no conversation, so no template shows its tools")
    if not completion.strip():
        raise Unrenderable("empty_completion", "the completion is empty")
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


def guard_value(value: Any, tokenizer: Any, allowed: Sequence[str]) -> Any:
    """Return a value in whose texts, keys included, the control tokens are marked as text.

    Raises:
        Unrenderable: `noncharacter`: a text has the mark itself.
    """
    if isinstance(value, str):
        if GUARD in value:
            raise Unrenderable(
                "noncharacter", "the text has U+FDD0, which Unicode keeps for programs' own use"
            )
        return guard(value, tokenizer, allowed)
    if isinstance(value, list):
        return [guard_value(item, tokenizer, allowed) for item in value]
    if isinstance(value, dict):
        return {
            guard_value(key, tokenizer, allowed): guard_value(item, tokenizer, allowed)
            for key, item in value.items()
        }
    return value


def turns_with_extras(row: dict[str, Any]) -> list[ChatTurn]:
    """Return the turns of a row: role, content, and what `extra` holds."""
    return [
        {
            "role": message["role"],
            "content": message["content"] or "",
            **(json.loads(message["extra"]) if message.get("extra") else {}),
        }
        for message in row["messages"]
    ]


def render_conversation(chat: Chat, tokenizer: Any, settings: PromptSettings) -> tuple[str, ...]:
    """Return prompts and answers of a conversation; in style chat, `prompt.loss` selects the trained ones.

    An answer that nothing precedes, or whose `train` is false, is never trained on.

    Raises:
        Unrenderable: `no_answer`, `no_question`; `conversation` (more turns than the style takes);
            `template`; a field that the style or the template does not render, by its name.
    """
    answers = trained_answers(chat.turns, every=settings.loss == "all")
    chat = chat.first(answers[-1] + 1)
    if settings.style in ("completion", "alpaca"):
        question, answer = sole_exchange(chat, settings.style)
        if settings.style == "completion":
            white = "" if question[-1:].isspace() else "\n"
            return render_continuation(question, white + answer, tokenizer)
        return render_answer(question, "", answer, tokenizer, settings)
    if settings.style == "template":
        return render_with_template(chat, tokenizer, settings)
    refusal: Unrenderable | None = None
    for form in argument_forms(chat):
        try:
            return render_with_chat_template(form, answers, tokenizer, settings)
        except Unrenderable as error:
            refusal = refusal or error
    raise refusal or AssertionError("a chat has one form at least")


def trained_answers(turns: Sequence[ChatTurn], every: bool) -> list[int]:
    """Return the indices of the answers to train on: the last one, or all that are not empty."""
    given = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    wanted = given if every else given[-1:]
    found = [
        i
        for i in wanted
        if turns[i].get("train", True) and (turns[i]["content"].strip() or turns[i].get("tool_calls"))
    ]
    if not found:
        what = "no answer" if not given else "no answer to train on: it is empty, or excluded (train, weight)"
        other = "; prompt.loss=all trains on the others" if not every and given[1:] else ""
        raise Unrenderable("no_answer", what + other)
    found = [i for i in found if i]
    if not found:
        raise Unrenderable("no_question", "the only answer is the first turn")
    return found


def sole_exchange(chat: Chat, style: str) -> tuple[str, str]:
    """Return the texts of a conversation of one question and its answer.

    Raises:
        Unrenderable: it has other turns, or fields that no text shows.
    """
    for reason in EXTRAS:
        if any(turn.get(reason) for turn in chat.turns):
            raise Unrenderable(reason, f"prompt.style={style} cannot render {reason}; chat and template can")
    if chat.tools:
        raise Unrenderable("tools", f"prompt.style={style} cannot render tools; chat and template can")
    roles = [turn["role"] for turn in chat.turns]
    if roles != ["user", "assistant"]:
        raise Unrenderable(
            "conversation",
            f"prompt.style={style} takes one question and its answer, not {', '.join(roles[:8])}; chat takes all",
        )
    return chat.turns[0]["content"], chat.turns[1]["content"]


def render_with_template(chat: Chat, tokenizer: Any, settings: PromptSettings) -> tuple[str, str]:
    """Return the prompt of prompt.template and the last turn, whose text alone can be trained on."""
    answer, before = chat.turns[-1], chat.first(-1)
    for reason in EXTRAS:
        if answer.get(reason):
            raise Unrenderable(
                reason, f"prompt.template renders no answer, so not its {reason}; style chat does"
            )
    opening = render_opening(before, tokenizer, settings)
    check_arguments(before, opening)
    check_read(before, (), lambda tagged: render_opening(tagged, tokenizer, settings))
    return opening, answer["content"].strip("\r\n")


def render_with_chat_template(
    chat: Chat, answers: Sequence[int], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    if settings.loss == "all":
        texts = render_all_answers(chat, answers, tokenizer, settings)
    else:
        texts = render_last_answer(chat, tokenizer, settings)
    check_arguments(chat, "".join(texts))
    check_read(
        chat,
        answers,
        lambda tagged: apply_chat_template(tagged, tokenizer, settings, add_generation_prompt=False),
    )
    return texts


def argument_forms(chat: Chat) -> list[Chat]:
    """Return the conversation with the arguments of calls as objects, and as JSON text if there are any.

    Templates want either one: `arguments | tojson`, or `arguments` as OpenAI sends them.
    """
    if not any(turn.get("tool_calls") for turn in chat.turns):
        return [chat]

    def as_text(call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        written = {key: as_text(value) if key == "function" else value for key, value in call.items()}
        if isinstance(call.get("arguments"), dict):
            written["arguments"] = json.dumps(call["arguments"], ensure_ascii=False)
        return written

    turns = [
        {**turn, "tool_calls": [as_text(call) for call in turn["tool_calls"]]}
        if turn.get("tool_calls")
        else turn
        for turn in chat.turns
    ]
    return [chat, Chat(turns, chat.tools)]


def render_answer(
    question: str, given: str, rest: str, tokenizer: Any, settings: PromptSettings
) -> tuple[str, str]:
    """Return prompt and completion of a question and its answer in style alpaca, chat or template.

    Args:
        given: the beginning of the answer, which is part of the prompt.
        rest: the rest of the answer, which is trained on.
    """
    if not given:
        rest = rest.lstrip("\r\n")  # line breaks would merge with the end of the opening into one token
    if settings.style == "chat":
        opening, answer = render_last_answer(ask(question, given + rest), tokenizer, settings)
        lead = answer_lead(tokenizer, settings) if given else ""
        if not answer.startswith(lead + given):
            raise Unrenderable(
                "template", f"the chat template rewrites the beginning of an answer: {answer[:40]!r}"
            )
        return opening + lead + given, answer[len(lead + given) :]
    return render_opening(ask(question), tokenizer, settings) + given, rest.rstrip("\r\n")


def header_instruction(header: str, settings: PromptSettings) -> str:
    """Return the instruction to complete a function header."""
    return f"{settings.instruction}\n\n{OPEN_FENCE}{header.strip()}{CLOSE_FENCE}"
