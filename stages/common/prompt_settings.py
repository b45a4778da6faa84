"""Settings of the prompt rendering, shared by pack (training) and evaluate."""

from dataclasses import dataclass

from stages.common.sections import require

STYLES = ("completion", "alpaca", "chat")


@dataclass
class PromptSettings:
    style: str = "completion"  # completion: text is continued | alpaca | chat: the tokenizer's template
    system: str = ""  # chat only: a system message for rows that bring none; empty: none
    instruction: str = "Complete the following Python function."  # alpaca, chat: asked of a function header

    def __post_init__(self) -> None:
        require(self.style in STYLES, "prompt.style", self.style, "one of " + ", ".join(STYLES))
        require(bool(self.instruction.strip()), "prompt.instruction", self.instruction, "a sentence")
