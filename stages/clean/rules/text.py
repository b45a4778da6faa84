"""Rules on text as text: is there any, is it readable, is it long, does it repeat itself, is it data."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from stages.clean.row import WORD, Row
from stages.clean.rules.quotes import around, quote
from stages.clean.rules.settings import Alphanumeric, Blobs, Encoding, Length, LongLines, Repetition

T = TypeVar("T")
TOKEN = re.compile(r"\w+|[^\w\s]+")
# Control characters but tab, line ends, vertical tab and form feed; U+FEFF inside a text; marks that show text in
# another order than the one it is read in (Trojan Source, CVE-2021-42574); halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
# What the continuation bytes 0x80 to 0xBF become in Latin-1, and in Windows-1252.
TAIL = (
    "[\x80-\xbf"
    + bytes(b for b in range(0x80, 0xA0) if b not in b"\x81\x8d\x8f\x90\x9d").decode("cp1252")
    + "]"
)
# The characters that lead two, three and four bytes of UTF-8 so read. Ã, Â, â€, ðŸ and ï» say it at once; letters that
# people write beside such signs must do so twice in a row (ftfy weighs them against each other for the same reason).
MOJIBAKE = re.compile(
    f"[ÃÂ]{TAIL}|â€{TAIL}|ðŸ{TAIL}|ï»¿|ï¿½|(?:[ÐÑÎÏØÙ×]{TAIL}){{2,}}|(?:[ãäåæçèé]{TAIL}{TAIL}){{2,}}"
)
NOT_ALPHANUMERIC = bytes(b for b in range(128) if not chr(b).isalnum())
WHITE = b" \t\n\r\x0b\x0c"
# StarCoder2 (arXiv 2402.19173, section on encoded data), but base64 goes over line ends only between whole lines of it.
BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}(?:\n[A-Za-z0-9+/]+={0,2})*")
HEX = re.compile(r"(?:(?:0x|\\x)[0-9a-fA-F]{2}[,\s]*+){8,}")
PAIRS = re.compile(r"[0-9a-fA-F]{2}(?:[ ,:]\s*+[0-9a-fA-F]{2}\b){7,}")  # ff 00 ff 00 ...
UNICODE = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def empty(row: Row) -> str | None:
    """Nothing to learn from: the completion (the assistant's turns) holds no letter, digit or operator."""
    return None if row.answer.strip() else "the completion is empty"


def encoding(row: Row, limits: Encoding) -> str | None:
    """Text that went through the wrong decoder, or that is no text at all."""
    text = row.judged
    if text.isascii() and not CONTROL.search(text):
        return None
    for pattern, most, what in (
        (CONTROL, limits.max_controls, "control characters"),
        (MOJIBAKE, limits.max_mojibake, "sequences of UTF-8 read as Latin-1"),
    ):
        found = list(pattern.finditer(text))
        if len(found) > most:
            return f"{len(found)} {what}, more than {most}: {around(text, found[most].start())}"
    replacements = text.count("\ufffd")
    if replacements > limits.max_replacements:
        place = around(text, text.index("\ufffd"))
        return f"{replacements} replacement characters, more than {limits.max_replacements}: {place}"
    unprintable = sum(1 for character in text if not (character.isprintable() or character.isspace()))
    if unprintable > limits.max_unprintable_share * len(text):
        return f"{unprintable / len(text):.2f} of its characters cannot be printed: {quote(ascii(text[:80]))}"
    return None


def length(row: Row, limits: Length) -> str | None:
    """Completion too short or too long, in characters, lines or tokens (`TOKEN`)."""
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
        tokens = len(TOKEN.findall(row.answer))
        if tokens < limits.min_tokens:
            return f"{tokens} tokens, fewer than {limits.min_tokens}"
        if tokens > limits.max_tokens:
            return f"{tokens} tokens, more than {limits.max_tokens}"
    return None


def long_lines(row: Row, limits: LongLines) -> str | None:
    """Lines that no person wrote: data, minified code."""
    text = row.judged
    mean = len(text) / (text.count("\n") + 1)
    if len(text) > limits.max_characters:
        longest = max(text.splitlines(), key=len, default="")
        if len(longest) > limits.max_characters:
            return f"line of {len(longest)} characters, more than {limits.max_characters}: {quote(longest)}"
    if mean > limits.max_mean:
        return f"lines of {mean:.0f} characters on average, more than {limits.max_mean:g}: {quote(text)}"
    return None


def alphanumeric(row: Row, limits: Alphanumeric) -> str | None:
    """Tables of signs, drawings, separators: few of its characters but white space are letters or digits."""
    text = row.judged
    if text.isascii():
        data = text.encode("ascii")
        kept = len(data.translate(None, NOT_ALPHANUMERIC))
        total = len(data.translate(None, WHITE))
    else:
        kept = sum(map(str.isalnum, text))
        total = len(text) - sum(map(str.isspace, text))
    if total >= max(1, limits.min_characters) and kept < limits.min_share * total:
        return f"{kept / total:.2f} of its characters are letters or digits, fewer than {limits.min_share}: {quote(text)}"
    return None


def blobs(row: Row, limits: Blobs) -> str | None:
    """Data written as text: base64, hexadecimal bytes, runs of \\u escapes."""
    text, total = row.judged, 0
    for pattern, kind, possible in (
        (BASE64, "base64", max(map(len, text.split()), default=0) >= 64),
        (HEX, "hexadecimal", "0x" in text or "\\x" in text),
        (PAIRS, "hexadecimal", True),
        (UNICODE, "\\u escapes", "\\u" in text),
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


def repetition(row: Row, limits: Repetition) -> str | None:
    """The same lines, or the same runs of words, again and again (duplicate lines and n-grams of Gopher)."""
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
    words, size = WORD.findall(row.answer.lower()), limits.ngram_words
    if len(words) >= max(limits.min_words, size) and not varied(words, limits):
        ngrams = list(zip(*(words[start:] for start in range(size)), strict=False))
        share = 1 - len(set(ngrams)) / len(ngrams)
        if share > limits.max_ngram_share:
            return (
                f"{share:.2f} of its {size}-grams repeat an earlier one: {quote(' '.join(commonest(ngrams)))}"
            )
    return None


def varied(words: list[str], limits: Repetition) -> bool:
    """Whether pairs of words, which cost less, tell that few n-grams repeat: a pair's first place begins a new n-gram."""
    size = limits.ngram_words
    count, pairs = len(words) - size + 1, len(set(pairwise(words)))
    return size > 1 and 1 - (pairs - (size - 2)) / count <= limits.max_ngram_share  # the last begin no n-gram


def commonest(items: Sequence[T]) -> T:
    """The most frequent item, the first of such."""
    counts = Counter(items)
    return max(counts, key=lambda item: counts[item])
