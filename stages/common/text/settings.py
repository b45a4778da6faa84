"""Settings of prompt rendering, shared by pack (training) and evaluate."""

from dataclasses import dataclass, field

from stages.common.core.settings import require

STYLES = ("completion", "alpaca", "chat", "template")
LOSSES = ("last", "all", "text")
INSTRUCTION = "Complete the following Python function."
# Keys that only some styles use, with their default and these styles
STYLE_KEYS = (
    ("loss", "last", ("chat",)),
    ("system", "", ("chat", "template")),
    ("template", "", ("template",)),
    ("instruction", INSTRUCTION, ("alpaca", "chat", "template")),
)


@dataclass
class PromptSettings:
    # completion: continue the text | alpaca | chat: the tokenizer's template | template: `template` below
    style: str = "completion"
    # styles chat and template: system message for rows that have none; empty: none
    system: str = ""
    # all styles but completion: the instruction put before a function header
    instruction: str = INSTRUCTION
    # what is trained on. last: the last answer of a conversation | all: all its answers (style chat) | text:
    # every token, questions too. Validation is on answers in any case, so that losses compare
    loss: str = "last"
    # style template: Jinja for everything before the answer, with `prompt` (the question), `system`,
    # `messages` (the turns before the answer: role, content), `tools`, `bos_token` and `eos_token`. The answer
    # and an end-of-text token follow.
    template: str = ""
    # control tokens that keep their meaning where a row's text spells them (<fim_prefix>, <reponame>); all
    # others are encoded as plain text
    control_tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.style in STYLES, "prompt.style", self.style, "one of " + ", ".join(STYLES))
        require(self.loss in LOSSES, "prompt.loss", self.loss, "one of " + ", ".join(LOSSES))
        require(bool(self.instruction.strip()), "prompt.instruction", self.instruction, "a sentence")
        for key, default, styles in STYLE_KEYS:
            value = getattr(self, key)
            expected = f"{default!r}: only prompt.style={' or '.join(styles)} uses it, and it is {self.style}"
            suits = self.style in styles or value in (default, "text" if key == "loss" else default)
            require(suits, f"prompt.{key}", value, expected)
        if self.style == "template":
            fault = template_fault(self.template)
            require(not fault, "prompt.template", self.template, f"a Jinja template{fault}")

    def with_style(self, style: str) -> "PromptSettings":
        """Return the settings in another style; what that style does not use has its default."""
        used = {key: getattr(self, key) for key, _, styles in STYLE_KEYS if style in styles}
        return PromptSettings(style=style, control_tokens=self.control_tokens, **used)


def template_fault(template: str) -> str:
    """Return what is wrong with a template's syntax, empty if nothing is."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import SandboxedEnvironment

    if not template.strip():
        return ", since prompt.style is template"
    try:
        SandboxedEnvironment().parse(template)
    except TemplateSyntaxError as error:
        return f" (line {error.lineno}: {error.message})"
    return ""
