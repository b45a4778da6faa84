"""Render what precedes an answer, and the answer itself, in the styles alpaca, chat and template."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from stages.common.core.errors import UserError
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import guard, special_tokens

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)
FIRST_TAG = 0xF0000  # private use: appended to every field in turn, to see which of them a template reads
ChatTurn = dict[str, Any]


class Unrenderable(Exception):
    """A row that cannot be rendered: `reason` is the word it is counted under, `detail` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Chat(NamedTuple):
    """Turns (role, content, and what else a turn has) and the tools that they may call."""

    turns: list[ChatTurn]
    tools: list[Any] | None = None

    def first(self, count: int) -> "Chat":
        return Chat(self.turns[:count], self.tools)


def ask(question: str, answer: str | None = None) -> Chat:
    """Return a conversation of one question, and its answer if there is one."""
    turns = [{"role": "user", "content": question.strip("\r\n")}]
    return Chat([*turns, {"role": "assistant", "content": answer}] if answer is not None else turns)


def render_opening(chat: Chat, tokenizer: Any, settings: PromptSettings) -> str:
    """Return everything up to where the answer to the last turn begins."""
    if settings.style == "alpaca":
        return ALPACA.format(prompt=chat.turns[-1]["content"].strip("\r\n"))
    if settings.style == "template":
        return fill_template(chat, tokenizer, settings)
    return apply_chat_template(chat, tokenizer, settings, add_generation_prompt=True)


def render_last_answer(chat: Chat, tokenizer: Any, settings: PromptSettings) -> tuple[str, str]:
    """Return what the chat template puts before the last turn, and the turn without the end-of-text token.

    Raises:
        Unrenderable: `template`: it renders the earlier turns differently once they are answered.
    """
    opening = render_opening(chat.first(-1), tokenizer, settings)
    whole = apply_chat_template(chat, tokenizer, settings, add_generation_prompt=False)
    if not whole.startswith(opening):
        raise Unrenderable(
            "template",
            f"the chat template renders the question as {opening[-40:]!r} before the answer and otherwise after it",
        )
    return opening, trim_end(whole[len(opening) :], tokenizer)


def answer_lead(tokenizer: Any, settings: PromptSettings) -> str:
    """Return what a chat template puts between a question's opening and the answer: a space, an empty thought.

    Evaluation begins an answer behind it, as training does. Empty in other styles, and for a template that
    cannot be trained on.
    """
    if settings.style != "chat":
        return ""
    return chat_answer_lead(tokenizer, tokenizer.chat_template, settings.system)


@lru_cache(maxsize=4)
def chat_answer_lead(tokenizer: Any, template: str | None, system: str) -> str:
    """As `answer_lead`; the cache forgets it where the template or the system message differs."""
    mark, settings = chr(FIRST_TAG), PromptSettings(style="chat", system=system)
    try:
        return render_last_answer(ask("a", mark), tokenizer, settings)[1].partition(mark)[0]
    except Unrenderable:
        return ""


def render_all_answers(
    chat: Chat, answers: Sequence[int], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    """Return alternating prompts and answers of a conversation that ends in an answer.

    Other answers than those at `answers` join a prompt. An answer includes the special token that the template
    ends it with, or the white space if there is no such token.

    Raises:
        Unrenderable: `template`: it renders a turn differently once others follow.
    """
    whole = apply_chat_template(chat, tokenizer, settings, add_generation_prompt=False)
    texts: list[str] = []
    done = ""  # the rendered conversation so far
    for number in answers:
        opening = render_opening(chat.first(number), tokenizer, settings)
        last = number == len(chat.turns) - 1
        through = (
            whole
            if last
            else apply_chat_template(chat.first(number + 1), tokenizer, settings, add_generation_prompt=False)
        )
        if not (whole.startswith(through) and through.startswith(opening) and opening.startswith(done)):
            raise Unrenderable(
                "template",
                f"the chat template renders turn {number + 1} differently once others follow (it may leave out "
                "earlier reasoning): prompt.loss=last trains on the last answer",
            )
        answer = through[len(opening) :]
        if last:
            answer = trim_end(answer, tokenizer)
        elif answer.rstrip().endswith(tuple(special_tokens(tokenizer).values())):
            answer = answer.rstrip()
        texts += [opening[len(done) :], answer]
        done = opening + answer
    return tuple(texts)


def trim_end(answer: str, tokenizer: Any) -> str:
    """Remove the end-of-text token that a template writes, and the line breaks after it."""
    bare = answer.rstrip()
    return (
        bare.removesuffix(tokenizer.eos_token)
        if bare.endswith(tokenizer.eos_token)
        else answer.rstrip("\r\n")
    )


def apply_chat_template(chat: Chat, tokenizer: Any, settings: PromptSettings, **options: Any) -> str:
    """Apply the tokenizer's chat template, adding prompt.system if there is no system message.

    Raises:
        Unrenderable: `template`, with the template's own words.
        UserError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "prompt.style=chat, but the tokenizer has no chat template. Set prompt.style to completion or "
            "alpaca, or give the tokenizer a template (chat_template.jinja in the model's folder)."
        )
    turns = chat.turns
    if settings.system and not any(turn["role"] == "system" for turn in turns):
        turns = [{"role": "system", "content": guard(settings.system, tokenizer)}, *turns]
    messages = [{key: value for key, value in turn.items() if key != "train"} for turn in turns]
    try:
        return tokenizer.apply_chat_template(messages, tools=chat.tools, tokenize=False, **options)
    except Exception as error:  # a template can raise anything
        raise Unrenderable("template", f"{type(error).__name__}: {error}") from error


def fill_template(chat: Chat, tokenizer: Any, settings: PromptSettings) -> str:
    """Render prompt.template with the turns before an answer.

    Raises:
        Unrenderable: `template`: it calls raise_exception.
        UserError: it fails otherwise, or does something the sandbox forbids.
    """
    from jinja2 import TemplateError, TemplateRuntimeError

    systems = [turn["content"] for turn in chat.turns if turn["role"] == "system"]
    try:
        return compile_template(settings.template).render(
            prompt=chat.turns[-1]["content"].strip("\r\n") if chat.turns else "",
            system=systems[0] if systems else guard(settings.system, tokenizer),
            messages=chat.turns,
            tools=chat.tools,
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token,
        )
    except Exception as error:  # a template can raise anything
        if isinstance(error, TemplateError) and not isinstance(error, TemplateRuntimeError):
            raise Unrenderable("template", str(error)) from error
        raise UserError(
            f"prompt.template: {type(error).__name__}: {error}. Fix the template; it may use prompt, system, "
            "messages, tools, bos_token and eos_token."
        ) from error


@lru_cache(maxsize=4)
def compile_template(template: str) -> Any:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    return environment.from_string(template)


def check_read(chat: Chat, trained: Sequence[int], render: Callable[[Chat], str]) -> None:
    """Check that a template reads every field: each gets a tag, and the tags must be in what it renders.

    Earlier reasoning may be left out, as reasoning models' templates do, and so may the name of a tool.

    Args:
        trained: indices of the answers that are trained on.

    Raises:
        Unrenderable: `tool_calls`, `tools`, `reasoning_content`, `name`, or `conversation` for a turn.
    """
    due: list[tuple[str, str, str]] = []  # tag, reason, detail

    def tag(reason: str, where: str) -> str:
        due.append((chr(FIRST_TAG + len(due)), reason, f"the template does not read {where}"))
        return due[-1][0]

    turns = []
    for number, turn in enumerate(chat.turns):
        tagged, where = dict(turn), f"turn {number + 1} ({turn['role']})"
        if turn.get("tool_calls"):
            mark = tag("tool_calls", f"the tool calls of {where}")
            tagged["tool_calls"] = [tag_call(call, mark) for call in turn["tool_calls"]]
        if turn.get("reasoning_content") and number in trained:
            tagged["reasoning_content"] += tag("reasoning_content", f"the reasoning of {where}")
        if turn.get("name") and turn["role"] != "tool":
            tagged["name"] += tag("name", f"the name of {where}")
        if turn["content"].strip():
            tagged["content"] = turn["content"].rstrip() + tag("conversation", where)
        turns.append(tagged)
    tools = chat.tools
    if tools:
        mark = tag("tools", "the tools")
        tools = [tag_call(tool, mark) for tool in tools]
    rendered = render(Chat(turns, tools))
    for mark, reason, detail in due:
        if mark not in rendered:
            raise Unrenderable(reason, detail)


def tag_call(call: Any, mark: str) -> Any:
    """Return a tool or a call with the tag behind the name of its function."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return {**call, "function": tag_call(call["function"], mark)}
    return {**call, "name": f"{call.get('name')}{mark}"} if isinstance(call, dict) else call


def check_arguments(chat: Chat, rendered: str) -> None:
    """Check that arguments of calls are rendered as JSON, neither as Python nor as JSON inside a string.

    Raises:
        Unrenderable: `tool_calls`.
    """
    for call in (call for turn in chat.turns for call in turn.get("tool_calls") or ()):
        arguments = (call.get("function") or call).get("arguments")
        if isinstance(arguments, str):
            wrong = json.dumps(arguments, ensure_ascii=False) if '"' in arguments else ""
        else:
            wrong = str(arguments) if arguments else ""
        if wrong and wrong in rendered:
            raise Unrenderable(
                "tool_calls", f"the template writes arguments as {wrong[:60]}, which is no JSON"
            )
