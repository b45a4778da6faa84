"""Rules on what an assistant says about itself, and around its answer."""

from collections.abc import Sequence

from stages.clean.row import Row
from stages.clean.rules.quotes import line_around, quote
from stages.clean.rules.settings import Boilerplate, Refusal


def refusal(row: Row, settings: Refusal) -> str | None:
    """The assistant refuses, or speaks of itself as a model. A fenced program may print what it likes."""
    text = plain(row.prose)
    for phrase in settings.phrases:
        place = text.find(phrase)
        if place >= 0:
            return (
                f"refusal: {quote(line_around(row.prose, place) if len(text) == len(row.prose) else phrase)}"
            )
    return None


def boilerplate(row: Row, settings: Boilerplate) -> str | None:
    """Too many of the answer's lines are courtesies: what is left is not worth a row."""
    if not first_of(plain(row.answer), settings.phrases):
        return None
    found = [line for line in row.lines if first_of(plain(line), settings.phrases)]
    if len(found) > settings.max_line_share * len(row.lines):
        return f"{len(found)} of {len(row.lines)} lines are boilerplate: {quote(found[0])}"
    return None


def first_of(text: str, phrases: Sequence[str]) -> str | None:
    return next((phrase for phrase in phrases if phrase in text), None)


def plain(text: str) -> str:
    """Lower case, with straight apostrophes."""
    text = text.lower()
    return text if text.isascii() else text.replace("’", "'")
