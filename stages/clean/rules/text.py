"""Rules on text as text: empty, unreadable, too long, repetitive, data."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from stages.clean.row import WORD_PATTERN, RowView
from stages.clean.rules.quotes import quote, quote_around
from stages.clean.rules.settings import Alphanumeric, Blobs, Encoding, Length, LongLines, Repetition

Element = TypeVar("Element")
LENGTH_TOKEN = re.compile(r"\w+|[^\w\s]+")
# Control characters except tab, line ends, vertical tab and form feed; U+FEFF inside a text; marks that
# display text in another order than it is read (Trojan Source, CVE-2021-42574); halves of surrogate pairs.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
# The continuation bytes 0x80 to 0xBF, read as Latin-1 or Windows-1252.
CONTINUED = (
    "[\x80-\xbf"
    + bytes(b for b in range(0x80, 0xA0) if b not in b"\x81\x8d\x8f\x90\x9d").decode("cp1252")
    + "]"
)
# UTF-8 sequences of two, three and four bytes read that way. Ã, Â, â€, ðŸ and ï» are proof at once; letters
# that people do write beside such signs must occur twice in a row (ftfy weighs them against each other for
# the same reason).
MOJIBAKE = re.compile(
    f"[ÃÂ]{CONTINUED}|â€{CONTINUED}|ðŸ{CONTINUED}|ï»¿|ï¿½"
    f"|(?:[ÐÑÎÏØÙ×]{CONTINUED}){{2,}}|(?:[ãäåæçèé]{CONTINUED}{CONTINUED}){{2,}}"
)
NOT_ALPHANUMERIC = bytes(b for b in range(128) if not chr(b).isalnum())
ASCII_WHITESPACE = b" \t\n\r\x0b\x0c"
# StarCoder2 (arXiv 2402.19173, section on encoded data), but base64 crosses a line end only to a whole line.
BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}(?:\n[A-Za-z0-9+/]+={0,2})*")
HEX_BYTES = re.compile(r"(?:(?:0x|\\x)[0-9a-fA-F]{2}[,\s]*+){8,}")
HEX_PAIRS = re.compile(r"[0-9a-fA-F]{2}(?:[ ,:]\s*+[0-9a-fA-F]{2}\b){7,}")  # ff 00 ff 00 ...
UNICODE_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def empty(row: RowView) -> str | None:
    """Drop rows whose completion (the assistant's turns) is only white space."""
    return None if row.answer.strip() else "the completion is empty"


def encoding(row: RowView, limits: Encoding) -> str | None:
    """Drop text that was decoded wrongly, or that is not text."""
    text = row.checked_text
    if text.isascii() and not INVISIBLE.search(text):
        return None
    for pattern, most, what in (
        (INVISIBLE, limits.max_controls, "control characters"),
        (MOJIBAKE, limits.max_mojibake, "sequences of UTF-8 read as Latin-1"),
    ):
        found = list(pattern.finditer(text))
        if len(found) > most:
            return f"{len(found)} {what}, more than {most}: {quote_around(text, found[most].start())}"
    replacements = text.count("\ufffd")
    if replacements > limits.max_replacements:
        place = quote_around(text, text.index("\ufffd"))
        return f"{replacements} replacement characters, more than {limits.max_replacements}: {place}"
    unprintable = sum(1 for character in text if not (character.isprintable() or character.isspace()))
    if unprintable > limits.max_unprintable_share * len(text):
        return f"{unprintable / len(text):.2f} of its characters cannot be printed: {quote(ascii(text[:80]))}"
    return None


def length(row: RowView, limits: Length) -> str | None:
    """Drop completions too short or too long in characters, lines or tokens (`LENGTH_TOKEN`)."""
    characters = len(row.answer.strip())
    for value, unit, least, most in (
        (characters, "characters", limits.min_characters, limits.max_characters),
        (len(row.lines), "lines", limits.min_lines, limits.max_lines),
    ):
        if value < least:
            return f"{value} {unit}, fewer than {least}"
        if value > most:
            return f"{value} {unit}, more than {most}"
    if limits.min_tokens or characters > limits.max_tokens:  # a token has at least one character
        tokens = len(LENGTH_TOKEN.findall(row.answer))
        if tokens < limits.min_tokens:
            return f"{tokens} tokens, fewer than {limits.min_tokens}"
        if tokens > limits.max_tokens:
            return f"{tokens} tokens, more than {limits.max_tokens}"
    return None


def long_lines(row: RowView, limits: LongLines) -> str | None:
    """Drop rows with lines that no person wrote: data, minified code."""
    text = row.checked_text
    mean = len(text) / (text.count("\n") + 1)
    if len(text) > limits.max_characters:
        longest = max(text.splitlines(), key=len, default="")
        if len(longest) > limits.max_characters:
            return f"line of {len(longest)} characters, more than {limits.max_characters}: {quote(longest)}"
    if mean > limits.max_mean:
        return f"lines of {mean:.0f} characters on average, more than {limits.max_mean:g}: {quote(text)}"
    return None


def alphanumeric(row: RowView, limits: Alphanumeric) -> str | None:
    """Drop tables of signs, drawings and separators: few non-space characters are letters or digits."""
    text = row.checked_text
    if text.isascii():
        data = text.encode("ascii")
        kept = len(data.translate(None, NOT_ALPHANUMERIC))
        total = len(data.translate(None, ASCII_WHITESPACE))
    else:
        kept = sum(map(str.isalnum, text))
        total = len(text) - sum(map(str.isspace, text))
    if total >= max(1, limits.min_characters) and kept < limits.min_share * total:
        return f"{kept / total:.2f} of its characters are letters or digits, fewer than {limits.min_share}: {quote(text)}"
    return None


def blobs(row: RowView, limits: Blobs) -> str | None:
    """Drop data written as text: base64, hexadecimal bytes, runs of \\u escapes."""
    text, total = row.checked_text, 0
    for pattern, kind, possible in (
        (BASE64, "base64", max(map(len, text.split()), default=0) >= 64),
        (HEX_BYTES, "hexadecimal", "0x" in text or "\\x" in text),
        (HEX_PAIRS, "hexadecimal", True),
        (UNICODE_ESCAPES, "\\u escapes", "\\u" in text),
    ):
        if not possible:
            continue
        for found in pattern.finditer(text):
            size = found.end() - found.start()
            total += size
            if size > limits.max_characters:
                return f"{size} characters of {kind}, more than {limits.max_characters}: {quote(found.group()[:200])}"
            if total > limits.max_share * len(text):
                return (
                    f"{total / len(text):.2f} of it is data, the last as {kind}: {quote(found.group()[:200])}"
                )
    return None


def repetition(row: RowView, limits: Repetition) -> str | None:
    """Drop rows that repeat lines or runs of words (Gopher's duplicate lines and n-grams)."""
    lines = row.lines
    if len(lines) >= max(1, limits.min_lines):
        distinct = set(lines)
        share = 1 - len(distinct) / len(lines)
        if share > limits.max_line_share:
            return f"{share:.2f} of its lines repeat an earlier one: {quote(commonest(lines))}"
        characters = 1 - sum(map(len, distinct)) / sum(map(len, lines))
        if characters > limits.max_line_character_share:
            return f"{characters:.2f} of its characters stand in lines that repeat an earlier one: {quote(commonest(lines))}"
    if len(row.answer) < limits.min_words:
        return None
    words, size = WORD_PATTERN.findall(row.answer.lower()), limits.ngram_words
    if len(words) >= max(limits.min_words, size) and not rarely_repeats(words, limits):
        ngrams = list(zip(*(words[start:] for start in range(size)), strict=False))
        share = 1 - len(set(ngrams)) / len(ngrams)
        if share > limits.max_ngram_share:
            return (
                f"{share:.2f} of its {size}-grams repeat an earlier one: {quote(' '.join(commonest(ngrams)))}"
            )
    return None


def rarely_repeats(words: list[str], limits: Repetition) -> bool:
    """Whether word pairs, which are cheap, show that few n-grams repeat: a new pair begins a new n-gram.

    The last `size - 2` pairs begin none.
    """
    size = limits.ngram_words
    count, pairs = len(words) - size + 1, len(set(pairwise(words)))
    return size > 1 and 1 - (pairs - (size - 2)) / count <= limits.max_ngram_share


def commonest(items: Sequence[Element]) -> Element:
    """Return the most frequent item, the first on a tie."""
    counts = Counter(items)
    return max(counts, key=lambda item: counts[item])
