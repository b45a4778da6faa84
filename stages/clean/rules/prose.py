"""Rules on what an assistant says about itself and around its answer."""

from collections.abc import Sequence

from stages.clean.row import RowView
from stages.clean.rules.quotes import line_around, quote
from stages.clean.rules.settings import Boilerplate, Refusal


def refusal(row: RowView, settings: Refusal) -> str | None:
    """Drop answers that refuse or speak of the assistant as a model. A fenced program may print anything."""
    text = fold_text(row.prose)
    for phrase in settings.phrases:
        place = text.find(phrase)
        if place >= 0:
            return (
                f"refusal: {quote(line_around(row.prose, place) if len(text) == len(row.prose) else phrase)}"
            )
    return None


def boilerplate(row: RowView, settings: Boilerplate) -> str | None:
    """Drop answers with too many lines of courtesies: the rest is not worth a row."""
    if not first_phrase(fold_text(row.answer), settings.phrases):
        return None
    found = [line for line in row.lines if first_phrase(fold_text(line), settings.phrases)]
    if len(found) > settings.max_line_share * len(row.lines):
        return f"{len(found)} of {len(row.lines)} lines are boilerplate: {quote(found[0])}"
    return None


def first_phrase(text: str, phrases: Sequence[str]) -> str | None:
    return next((phrase for phrase in phrases if phrase in text), None)


def fold_text(text: str) -> str:
    """Return the text in lower case with straight apostrophes."""
    text = text.lower()
    return text if text.isascii() else text.replace("’", "'")
