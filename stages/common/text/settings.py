"""Settings of the prompt rendering, shared by pack (training) and evaluate."""

from dataclasses import dataclass

from stages.common.settings import require

STYLES = ("completion", "alpaca", "chat", "template")
LOSSES = ("last", "all")


@dataclass
class PromptSettings:
    style: str = (
        "completion"  # completion: text is continued | alpaca | chat: the tokenizer's template | template
    )
    system: str = ""  # chat, template: a system message for rows that bring none; empty: none
    instruction: str = "Complete the following Python function."  # not completion: asked of a function header
    loss: str = "last"  # chat: train on the last answer of a conversation, or on all its answers
    # style template: Jinja for everything before the answer, of `prompt` (the question), `system`, `messages` (the turns
    # before the answer: role, content), `bos_token` and `eos_token`. The answer and an end-of-text token follow.
    template: str = ""

    def __post_init__(self) -> None:
        require(self.style in STYLES, "prompt.style", self.style, "one of " + ", ".join(STYLES))
        require(self.loss in LOSSES, "prompt.loss", self.loss, "one of " + ", ".join(LOSSES))
        require(bool(self.instruction.strip()), "prompt.instruction", self.instruction, "a sentence")
        if self.style == "template":
            fault = fault_of(self.template)
            require(not fault, "prompt.template", self.template, f"a Jinja template{fault}")


def fault_of(template: str) -> str:
    """What is wrong with a template's syntax, empty where nothing is."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import SandboxedEnvironment

    if not template.strip():
        return ", since prompt.style is template"
    try:
        SandboxedEnvironment().parse(template)
    except TemplateSyntaxError as error:
        return f" (line {error.lineno}: {error.message})"
    return ""
