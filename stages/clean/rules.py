"""Rules on single rows: each returns the evidence why a row is dropped, or None. Thresholds: settings.py."""

import re
from collections import Counter
from collections.abc import Callable

from stages.clean.rows import WORD, Row
from stages.clean.settings import CleanSettings, Length, LongLines, Placeholder, Repetition

SHOWN = 160  # characters of a row that evidence quotes


def empty(row: Row) -> str | None:
    """Nothing to learn from: the completion (the assistant's turns) holds no letter, digit or operator."""
    return None if row.answer.strip() else "the completion is empty"


def length(row: Row, limits: Length) -> str | None:
    """Completion too short or too long, in characters or in lines."""
    characters = len(row.answer.strip())
    lines = sum(1 for line in row.answer.splitlines() if line.strip())
    for value, unit, least, most in (
        (characters, "characters", limits.min_characters, limits.max_characters),
        (lines, "lines", limits.min_lines, limits.max_lines),
    ):
        if value < least:
            return f"{value} {unit}, fewer than {least}"
        if value > most:
            return f"{value} {unit}, more than {most}"
    return None


def long_lines(row: Row, limits: LongLines) -> str | None:
    """A line that no person wrote: data, minified code."""
    longest = max(row.text.splitlines(), key=len, default="")
    if len(longest) > limits.max_characters:
        return f"line of {len(longest)} characters, more than {limits.max_characters}: {quote(longest)}"
    return None


def parse(row: Row) -> str | None:
    """The row's Python does not parse. A row without code passes."""
    return row.code.error or None


def placeholder(row: Row, settings: Placeholder) -> str | None:
    """Work left to the reader: a marker in the completion, or a function that does nothing."""
    for pattern in settings.patterns:
        found = re.search(pattern, row.answer, re.IGNORECASE)
        if found:
            return f"placeholder: {quote(line_around(row.answer, found.start()))}"
    if settings.stubs and row.code.stub:
        return f"nothing but a stub in {quote(row.code.stub)}"
    return None


def repetition(row: Row, limits: Repetition) -> str | None:
    """The same lines, or the same runs of words, again and again."""
    lines = [line.strip() for line in row.answer.splitlines() if line.strip()]
    if len(lines) >= limits.min_lines:
        share, most = repeated(lines)
        if share > limits.max_line_share:
            return f"{share:.2f} of its lines repeat an earlier one: {quote(most)}"
    words = WORD.findall(row.answer.lower())
    size = limits.ngram_words
    if len(words) >= max(limits.min_words, size):
        share, most = repeated([" ".join(words[i : i + size]) for i in range(len(words) - size + 1)])
        if share > limits.max_ngram_share:
            return f"{share:.2f} of its {size}-grams repeat an earlier one: {quote(most)}"
    return None


def repeated(items: list[str]) -> tuple[float, str]:
    """Share of items that equal an earlier one, and the most frequent item (the first such)."""
    counts = Counter(items)
    return 1 - len(counts) / len(items), max(counts, key=lambda item: counts[item])


def line_around(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return text[start : end if end >= 0 else len(text)].strip()


def quote(text: str) -> str:
    """`text` on one line, cut to what fits into a table."""
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


RULES: dict[str, Callable[[Row, CleanSettings], str | None]] = {
    "empty": lambda row, _: empty(row),
    "length": lambda row, settings: length(row, settings.length),
    "long_lines": lambda row, settings: long_lines(row, settings.long_lines),
    "parse": lambda row, _: parse(row),
    "placeholder": lambda row, settings: placeholder(row, settings.placeholder),
    "repetition": lambda row, settings: repetition(row, settings.repetition),
}
