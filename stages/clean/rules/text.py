"""Rules on text as text: empty, unreadable, too long, repetitive, data.

A rule is a dataclass of its thresholds; called with a row it returns the evidence for a drop, or None. It
reads nothing but the row. A figure from the literature has its source beside it. BigCode:
bigcode-project/bigcode-dataset, preprocessing/README.md, after Codex (arXiv 2107.03374). StarCoder2: arXiv
2402.19173. Gopher: arXiv 2112.11446, table A1.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from stages.clean.row import WORD_PATTERN, RowView
from stages.clean.rules.quotes import quote, quote_around
from stages.clean.rules.valid_settings import require_share
from stages.common.core.settings import require

Element = TypeVar("Element")
MIN_CHECKED_CHARACTERS = 60  # `return -(a - b)` is mostly signs
# Lines and words of a completion from which its repetition is counted, and words of an n-gram
MIN_LINES, MIN_WORDS, NGRAM_WORDS = 20, 60, 8
# Control characters except tab, line ends, vertical tab and form feed. Python allows them in literals and
# comments alone, so they are faults only where nothing parses.
CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x1c-\x1f\x7f]")
# What no writer means: C1 controls (Windows-1252 read as Latin-1), characters that are none, halves of
# surrogate pairs, tags that no flag precedes (hidden text), and overrides, which show text in another order
# than it is read. Joiners, marks of direction, soft hyphens and variation selectors are text.
FAULTY = re.compile(
    "[\x80-\x84\x86-\x9f\u202d\u202e\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
# In code, so are embeddings and isolates (Trojan Source, CVE-2021-42574); in prose, Hebrew and Arabic need them
REORDERING = re.compile("[\u202a-\u202c\u2066-\u2069]")
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
REPLACEMENT = re.compile("\ufffd")
NOT_ALPHANUMERIC = bytes(b for b in range(128) if not chr(b).isalnum())
ASCII_WHITESPACE = b" \t\n\r\x0b\x0c"
# StarCoder2 (arXiv 2402.19173, section on encoded data), but base64 crosses a line end only to a whole line.
BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}(?:\n[A-Za-z0-9+/]+={0,2})*")
HEX_BYTES = re.compile(r"(?:(?:0x|\\x)[0-9a-fA-F]{2}[,\s]*+){8,}")
HEX_PAIRS = re.compile(r"[0-9a-fA-F]{2}(?:[ ,:]\s*+[0-9a-fA-F]{2}\b){7,}")  # ff 00 ff 00 ...
UNICODE_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def empty(row: RowView) -> str | None:
    """Drop rows whose completion (the assistant's turns and tool calls) is only white space."""
    return None if row.answer.strip() else "the completion is empty"


@dataclass
class Encoding:
    """Drop text that was decoded wrongly, or that is not text."""

    # Faults that a row may hold, from 0: control characters outside literals, text in reversed order,
    # U+FFFD, and sequences of UTF-8 read as Latin-1 or Windows-1252, like Ã© (after ftfy)
    max_faults: int = 0

    def __post_init__(self) -> None:
        require(self.max_faults >= 0, "clean.encoding.max_faults", self.max_faults, "0 or more")

    def __call__(self, row: RowView) -> str | None:
        text = row.checked_text
        if text.isascii() and not CONTROLS.search(text):
            return None
        is_code = row.layout == "whole"
        code = text if is_code else "\n".join(block for _, block in row.fences)
        literal = row.code.tree is not None
        for pattern, where, what in (
            (CONTROLS, ("" if is_code else row.prose) if literal else text, "control characters"),
            (FAULTY, text, "characters that are not text"),
            (REORDERING, code, "characters that reverse the order of code"),
            (MOJIBAKE, text, "sequences of UTF-8 read as Latin-1"),
            (REPLACEMENT, text, "replacement characters"),
        ):
            found = list(pattern.finditer(where))
            if len(found) > self.max_faults:
                place = quote_around(where, found[self.max_faults].start())
                return f"{len(found)} {what}, more than {self.max_faults}: {place}"
        return None


@dataclass
class Length:
    """Drop completions too short or too long. The stage pack counts the model's own tokens."""

    min_characters: int = 1  # of the completion without surrounding white space, from 0
    max_characters: int = 8000
    min_lines: int = 1  # non-blank lines of the completion, from 0
    max_lines: int = 200

    def __post_init__(self) -> None:
        for unit in ("characters", "lines"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            wanted = f"a number from 0 to max_{unit} ({most})"
            require(0 <= least <= most, f"clean.length.min_{unit}", least, wanted)

    def __call__(self, row: RowView) -> str | None:
        for value, unit, least, most in (
            (len(row.answer.strip()), "characters", self.min_characters, self.max_characters),
            (len(row.lines), "lines", self.min_lines, self.max_lines),
        ):
            if value < least:
                return f"{value} {unit}, fewer than {least}"
            if value > most:
                return f"{value} {unit}, more than {most}"
        return None


@dataclass
class LongLines:
    """Drop code with lines that no person wrote: data, minified code. A paragraph of prose is one line."""

    max_characters: int = 240  # longest line of the module or of a fenced block, from 1; BigCode: 1000
    max_mean: float = 100  # mean characters of its lines, blank ones included, above 0; BigCode: 100

    def __post_init__(self) -> None:
        require(self.max_characters >= 1, "clean.long_lines.max_characters", self.max_characters, "1 or more")
        require(self.max_mean > 0, "clean.long_lines.max_mean", self.max_mean, "more than 0")

    def __call__(self, row: RowView) -> str | None:
        text = row.text if row.layout == "whole" else "".join(block for _, block in row.fences)
        if len(text) > self.max_characters:
            longest = max(text.splitlines(), key=len, default="")
            if len(longest) > self.max_characters:
                return f"line of {len(longest)} characters, more than {self.max_characters}: {quote(longest)}"
        mean = len(text) / (text.count("\n") + 1)
        if mean > self.max_mean:
            return f"lines of {mean:.0f} characters on average, more than {self.max_mean:g}: {quote(text)}"
        return None


@dataclass
class Alphanumeric:
    """Drop tables of signs, drawings and separators: few non-space characters are letters or digits."""

    # Letters and digits, share of all characters except white space, 0 to 1; BigCode: 0.25 of all
    min_share: float = 0.25

    def __post_init__(self) -> None:
        require_share("alphanumeric", self, "min_share")

    def __call__(self, row: RowView) -> str | None:
        text = row.checked_text
        if text.isascii():
            data = text.encode("ascii")
            kept = len(data.translate(None, NOT_ALPHANUMERIC))
            total = len(data.translate(None, ASCII_WHITESPACE))
        else:
            kept = sum(map(str.isalnum, text))
            total = len(text) - sum(map(str.isspace, text))
        if total >= MIN_CHECKED_CHARACTERS and kept < self.min_share * total:
            return f"{kept / total:.2f} of its characters are letters or digits, fewer than {self.min_share}: {quote(text)}"
        return None


@dataclass
class Blobs:
    """Drop data written as text: base64, hexadecimal bytes, runs of \\u escapes."""

    # Longest run of base64, hex or \\u escapes that passes, from 64; StarCoder2: 1024
    max_characters: int = 1024
    max_share: float = 0.5  # all such runs, share of the text, 0 to 1; StarCoder2: 0.5

    def __post_init__(self) -> None:
        require(self.max_characters >= 64, "clean.blobs.max_characters", self.max_characters, "64 or more")
        require_share("blobs", self, "max_share")

    def __call__(self, row: RowView) -> str | None:
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
                if size > self.max_characters:
                    return f"{size} characters of {kind}, more than {self.max_characters}: {quote(found.group()[:200])}"
                if total > self.max_share * len(text):
                    return f"{total / len(text):.2f} of it is data, the last as {kind}: {quote(found.group()[:200])}"
        return None


@dataclass
class Repetition:
    """Drop rows that repeat lines or runs of words (Gopher's duplicate lines and n-grams)."""

    # Lines that repeat an earlier line, share of the non-blank lines and of their characters, 0 to 1. Gopher:
    # 0.3 and 0.2 in prose; code repeats `else:` and `return None` all the time.
    max_line_share: float = 0.7
    # 8-grams of words that repeat an earlier one, share of all, 0 to 1. Gopher: 0.12 of the characters
    max_ngram_share: float = 0.5

    def __post_init__(self) -> None:
        require_share("repetition", self, "max_line_share", "max_ngram_share")

    def __call__(self, row: RowView) -> str | None:
        lines = row.lines
        if len(lines) >= MIN_LINES:
            distinct = set(lines)
            share = 1 - len(distinct) / len(lines)
            if share > self.max_line_share:
                return f"{share:.2f} of its lines repeat an earlier one: {quote(commonest(lines))}"
            characters = 1 - sum(map(len, distinct)) / sum(map(len, lines))
            if characters > self.max_line_share:
                return f"{characters:.2f} of its characters stand in lines that repeat an earlier one: {quote(commonest(lines))}"
        if len(row.answer) < MIN_WORDS:
            return None
        words = WORD_PATTERN.findall(row.answer.lower())
        if len(words) >= MIN_WORDS:
            ngrams = list(zip(*(words[start:] for start in range(NGRAM_WORDS)), strict=False))
            share = 1 - len(set(ngrams)) / len(ngrams)
            if share > self.max_ngram_share:
                return f"{share:.2f} of its {NGRAM_WORDS}-grams repeat an earlier one: {quote(' '.join(commonest(ngrams)))}"
        return None


def commonest(items: Sequence[Element]) -> Element:
    """Return the most frequent item, the first on a tie."""
    counts = Counter(items)
    return max(counts, key=lambda item: counts[item])
