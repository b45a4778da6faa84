"""Where an answer begins and ends in each style: alpaca's text, the tokenizer's chat template, a template of the settings."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from stages.common.errors import UserError
from stages.common.text.settings import PromptSettings
from stages.common.text.tokens import special_tokens

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)


class Unrenderable(Exception):
    """A row that a style cannot show; `reason` is the word it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def opening(question: str | Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings) -> str:
    """Everything up to where the answer begins, of one question or of the turns before an answer."""
    turns = [("user", question.strip())] if isinstance(question, str) else list(question)
    if settings.style == "alpaca":
        return ALPACA.format(prompt=turns[-1][1].strip())
    if settings.style == "template":
        return filled(turns, tokenizer, settings)
    return templated(turns, tokenizer, settings, add_generation_prompt=True)


def every_answer(
    messages: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings
) -> tuple[str, ...]:
    """Prompts and answers in turn, of a conversation that ends in an answer; an empty answer is part of a prompt.

    An answer ends with the special token that the template ends it with; in a template without, with its white space.

    Raises:
        Unrenderable: `template`: it renders turns differently once others follow.
    """
    whole = templated(messages, tokenizer, settings, add_generation_prompt=False)
    texts: list[str] = []
    done = ""
    for number, (role, content) in enumerate(messages):
        if role != "assistant" or not content.strip():
            continue
        asked = opening(messages[:number], tokenizer, settings)
        turns = messages[: number + 1]
        upto = (
            whole if turns == messages else templated(turns, tokenizer, settings, add_generation_prompt=False)
        )
        if not (whole.startswith(upto) and upto.startswith(asked) and asked.startswith(done)):
            raise Unrenderable("template")
        answer = upto[len(asked) :]
        if turns == messages:
            answer = answer.rstrip().removesuffix(tokenizer.eos_token)
        elif answer.rstrip().endswith(tuple(special_tokens(tokenizer).values())):
            answer = answer.rstrip()
        texts += [asked[len(done) :], answer]
        done = asked + answer
    return tuple(texts)


def filled(turns: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings) -> str:
    """The template of the settings over the turns before an answer.

    Raises:
        Unrenderable: `template`: it calls raise_exception.
        UserError: it fails otherwise, or does what the sandbox forbids.
    """
    from jinja2 import TemplateError, TemplateRuntimeError

    systems = [content for role, content in turns if role == "system"]
    try:
        return compiled(settings.template).render(
            prompt=turns[-1][1].strip() if turns else "",
            system=systems[0] if systems else settings.system,
            messages=[{"role": role, "content": content} for role, content in turns],
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token,
        )
    except Exception as error:  # whatever the template makes of the values
        if isinstance(error, TemplateError) and not isinstance(error, TemplateRuntimeError):
            raise Unrenderable("template") from error
        raise UserError(
            f"prompt.template: {type(error).__name__}: {error}. It may use prompt, system, messages, bos_token, eos_token."
        ) from error


@lru_cache(maxsize=4)
def compiled(template: str) -> Any:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)


def templated_answer(
    turns: Sequence[tuple[str, str]], prompt: str, answer: str, tokenizer: Any, settings: PromptSettings
) -> str:
    """What the chat template puts behind `prompt` for `answer`, without the end-of-text token.

    Raises:
        Unrenderable: `template`: it renders the turns before differently once they are answered.
    """
    whole = templated([*turns, ("assistant", answer)], tokenizer, settings, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise Unrenderable("template")
    return whole[len(prompt) :].rstrip().removesuffix(tokenizer.eos_token)


def templated(turns: Sequence[tuple[str, str]], tokenizer: Any, settings: PromptSettings, **how: Any) -> str:
    """The tokenizer's chat template over `turns`, with the system message of the settings where they bring none."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "prompt.style=chat, but the tokenizer has no chat template. Set prompt.style to completion or alpaca, "
            "or give the tokenizer a template (chat_template.jinja in the model's folder)."
        )
    if settings.system and not any(role == "system" for role, _ in turns):
        turns = [("system", settings.system), *turns]
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except TemplateError as error:
        raise Unrenderable("template") from error
