"""Settings of prompt rendering, shared by pack (training) and evaluate."""

from dataclasses import dataclass, field
from functools import cached_property

from stages.common.core.settings import require
from stages.common.text.fill_tokens import FILL_NAMES

ORDINARY_STYLES = ("completion", "alpaca", "chat", "template")
STYLES = (*ORDINARY_STYLES, "fim")
LOSSES = ("last", "all", "text")
INSTRUCTION = "Complete the following Python function."
# Keys that only some styles use, with their default and these styles
STYLE_KEYS = (
    ("loss", "last", ("chat",)),
    ("system", "", ("chat", "template")),
    ("template", "", ("template",)),
    ("instruction", INSTRUCTION, ("alpaca", "chat", "template")),
    ("ordinary", "completion", ("fim",)),
    ("fim_share", 0.5, ("fim",)),
    ("fim_spm_share", 0.5, ("fim",)),
    ("fim_syntax_share", 0.5, ("fim",)),
    ("fim_seed", 0, ("fim",)),
)


@dataclass
class PromptSettings:
    # completion: continue the text | alpaca | chat: the tokenizer's template | template: `template` below
    # | fim: fill in the middle of running text, and `ordinary` for other rows and benchmarks
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
    # style fim: the style of the rows that stay as they are, and of benchmarks whose end is asked for
    ordinary: str = "completion"
    # style fim: share of the rows of running text whose middle is to be filled in, above 0 to 1. Running text
    # is plain text, and functions whose prompt is their header
    fim_share: float = 0.5
    # style fim: share of these with the suffix before the prefix (SPM), 0 to 1
    fim_spm_share: float = 0.5
    # style fim: share of these whose middle is a node of Python's syntax, 0 to 1; of the others, and of what
    # is no Python, it lies between two random characters
    fim_syntax_share: float = 0.5
    # style fim: of these choices; a row's own follow from its id
    fim_seed: int = 0

    def __post_init__(self) -> None:
        require(self.style in STYLES, "prompt.style", self.style, "one of " + ", ".join(STYLES))
        require(self.loss in LOSSES, "prompt.loss", self.loss, "one of " + ", ".join(LOSSES))
        require(bool(self.instruction.strip()), "prompt.instruction", self.instruction, "a sentence")
        for key, default, styles in STYLE_KEYS:
            value = getattr(self, key)
            expected = f"{default!r}: only prompt.style={' or '.join(styles)} uses it, and it is {self.style}"
            suits = bool({self.style, self.ordinary} & {*styles}) or value in (
                default,
                "text" if key == "loss" else default,
            )
            require(suits, f"prompt.{key}", value, expected)
        self.check_fim()
        if "template" in (self.style, self.ordinary):
            fault = template_fault(self.template)
            require(not fault, "prompt.template", self.template, f"a Jinja template{fault}")

    def check_fim(self) -> None:
        """Check what only style fim uses."""
        ordinary = ORDINARY_STYLES
        require(self.ordinary in ordinary, "prompt.ordinary", self.ordinary, "one of " + ", ".join(ordinary))
        require(0 < self.fim_share <= 1, "prompt.fim_share", self.fim_share, "above 0, at most 1")
        for key in ("fim_spm_share", "fim_syntax_share"):
            require(0 <= getattr(self, key) <= 1, f"prompt.{key}", getattr(self, key), "a number in [0, 1]")
        spelled = sorted(FILL_NAMES & {*self.control_tokens}) if self.style == "fim" else []
        require(
            not spelled, "prompt.control_tokens", spelled, "no token of style fim, which writes them itself"
        )

    @cached_property
    def beside_fim(self) -> "PromptSettings":
        """The settings for what is not filled in: in style fim those of `ordinary`, else the same."""
        return self.with_style(self.ordinary) if self.style == "fim" else self

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
