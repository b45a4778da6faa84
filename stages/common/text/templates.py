"""Render what precedes an answer, and the answer itself, in the styles alpaca, chat and template."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stages.common.errors import UserError
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import special_tokens

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)


class Unrenderable(Exception):
    """A row that a style cannot render; `reason` is the word it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def render_opening(
    question: str | Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings
) -> str:
    """Return everything up to where the answer begins, for one question or for the turns before an answer."""
    turns = [("user", question.strip())] if isinstance(question, str) else list(question)
    if settings.style == "alpaca":
        return ALPACA.format(prompt=turns[-1][1].strip())
    if settings.style == "template":
        return fill_template(turns, tokenizer, settings)
    return apply_chat_template(turns, tokenizer, settings, add_generation_prompt=True)


def render_all_answers(
    messages: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    """Return alternating prompts and answers of a conversation that ends in an answer.

    An empty answer joins a prompt. An answer includes the special token that the template ends it with, or
    the white space if there is no such token.

    Raises:
        Unrenderable: `template`: it renders a turn differently once others follow.
    """
    whole = apply_chat_template(messages, tokenizer, settings, add_generation_prompt=False)
    texts: list[str] = []
    done = ""  # the rendered conversation so far
    for number, (role, content) in enumerate(messages):
        if role != "assistant" or not content.strip():
            continue
        opening = render_opening(messages[:number], tokenizer, settings)
        turns = messages[: number + 1]
        through_answer = (
            whole
            if turns == messages
            else apply_chat_template(turns, tokenizer, settings, add_generation_prompt=False)
        )
        if not (
            whole.startswith(through_answer)
            and through_answer.startswith(opening)
            and opening.startswith(done)
        ):
            raise Unrenderable("template")
        answer = through_answer[len(opening) :]
        if turns == messages:
            answer = answer.rstrip().removesuffix(tokenizer.eos_token)
        elif answer.rstrip().endswith(tuple(special_tokens(tokenizer).values())):
            answer = answer.rstrip()
        texts += [opening[len(done) :], answer]
        done = opening + answer
    return tuple(texts)


def fill_template(turns: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings) -> str:
    """Render prompt.template with the turns before an answer.

    Raises:
        Unrenderable: `template`: it calls raise_exception.
        UserError: it fails otherwise, or does something the sandbox forbids.
    """
    from jinja2 import TemplateError, TemplateRuntimeError

    systems = [content for role, content in turns if role == "system"]
    try:
        return compile_template(settings.template).render(
            prompt=turns[-1][1].strip() if turns else "",
            system=systems[0] if systems else settings.system,
            messages=[{"role": role, "content": content} for role, content in turns],
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token,
        )
    except Exception as error:  # a template can raise anything
        if isinstance(error, TemplateError) and not isinstance(error, TemplateRuntimeError):
            raise Unrenderable("template") from error
        raise UserError(
            f"prompt.template: {type(error).__name__}: {error}. Fix the template; it may use prompt, system, "
            "messages, bos_token and eos_token."
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
    return environment.from_string(template)


def render_chat_answer(
    turns: Sequence[tuple[str, str]], prompt: str, answer: str, tokenizer: Any, settings: PromptSettings
) -> str:
    """Return what the chat template puts after `prompt` for `answer`, without the end-of-text token.

    Raises:
        Unrenderable: `template`: it renders the earlier turns differently once they are answered.
    """
    whole = apply_chat_template(
        [*turns, ("assistant", answer)], tokenizer, settings, add_generation_prompt=False
    )
    if not whole.startswith(prompt):
        raise Unrenderable("template")
    return whole[len(prompt) :].rstrip().removesuffix(tokenizer.eos_token)


def apply_chat_template(
    turns: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings, **options: Any
) -> str:
    """Apply the tokenizer's chat template to `turns`, adding prompt.system if they have no system message."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "prompt.style=chat, but the tokenizer has no chat template. Set prompt.style to completion or "
            "alpaca, or give the tokenizer a template (chat_template.jinja in the model's folder)."
        )
    if settings.system and not any(role == "system" for role, _ in turns):
        turns = [("system", settings.system), *turns]
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise Unrenderable("template") from error
