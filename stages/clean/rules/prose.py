"""Rules on what an assistant says about itself and around its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.clean.row import RowView
from stages.clean.rules.phrases import BOILERPLATE, REFUSALS
from stages.clean.rules.quotes import line_around, quote
from stages.clean.rules.valid_settings import require_lower_case, require_share


@dataclass
class Refusal:
    """Drop answers that refuse or speak of the assistant as a model. A fenced program may print anything."""

    # Lower-case phrases, searched in the prose of the answer, case ignored. From the lists that unfiltered
    # ShareGPT and WizardLM (optional_clean.py, wizardlm_clean.py), the phrases about the model, not those
    # about the world.
    phrases: list[str] = field(default_factory=lambda: list(REFUSALS))

    def __post_init__(self) -> None:
        require_lower_case("refusal", "phrases", self.phrases)

    def __call__(self, row: RowView) -> str | None:
        text = fold_text(row.prose)
        for phrase in self.phrases:
            place = text.find(phrase)
            if place >= 0:
                return f"refusal: {quote(line_around(row.prose, place) if len(text) == len(row.prose) else phrase)}"
        return None


@dataclass
class Boilerplate:
    """Drop answers with too many lines of courtesies: the rest is not worth a row."""

    # Lower-case phrases, searched in each line of the answer
    phrases: list[str] = field(default_factory=lambda: list(BOILERPLATE))
    # Lines with such a phrase, share of the non-blank lines, 0 to 1: "Sure! Here is the code:" above twenty
    # lines of code passes, above one line it does not. 0: any such line drops the row.
    max_line_share: float = 0.34

    def __post_init__(self) -> None:
        require_lower_case("boilerplate", "phrases", self.phrases)
        require_share("boilerplate", self, "max_line_share")

    def __call__(self, row: RowView) -> str | None:
        if not first_phrase(fold_text(row.answer), self.phrases):
            return None
        found = [line for line in row.lines if first_phrase(fold_text(line), self.phrases)]
        if len(found) > self.max_line_share * len(row.lines):
            return f"{len(found)} of {len(row.lines)} lines are boilerplate: {quote(found[0])}"
        return None


def first_phrase(text: str, phrases: Sequence[str]) -> str | None:
    return next((phrase for phrase in phrases if phrase in text), None)


def fold_text(text: str) -> str:
    """Return the text in lower case with straight apostrophes."""
    text = text.lower()
    return text if text.isascii() else text.replace("’", "'")
