"""Replaces secrets and personal data in the texts of rows, so that code that parsed still does.

The placeholders are BigCode's where it has one (<KEY>, <PASSWORD>, <EMAIL>; bigcode-project/bigcode-dataset, pii).
"""

import io
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.clean.code.syntax import FENCE, UnparsableError, parse
from stages.clean.redact import personal, prefilter, secrets
from stages.clean.redact.secrets import Span
from stages.clean.settings import Redaction

PLACEHOLDERS = {
    "key": "<KEY>",
    "password": "<PASSWORD>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE_NUMBER>",
    "iban": "<IBAN>",
    "card": "<CREDIT_CARD>",
}
SECRET = ("key", "password")
KEY_MARKS = ("PRIVATE KEY", "PuTTY-User-Key-File")

Record = dict[str, Any]


def wide_patterns(settings: Redaction) -> list[str]:
    """Patterns for RE2: a text in which none matches holds nothing to redact."""
    names = tuple(settings.plugins) if settings.secrets else ()
    return list(unions(names, tuple(settings.personal)))


@cache
def unions(plugins: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Three automata: one of all patterns is three times as slow as these together."""
    secret = prefilter.unions(secrets.patterns(plugins), 2) if plugins else ()
    own = [pattern for kind in kinds for pattern in personal.PATTERNS[kind]]
    return (*secret, *prefilter.unions(own))


def redacted(records: list[Record], settings: Redaction, layout: str) -> list[tuple[Record, Counter[str]]]:
    """Records with placeholders, and how many of each kind each holds now.

    Args:
        records: prompt, completion, tests and messages of rows that `wide_patterns` match.
        layout: where a row's code is: whole | fenced.
    """
    finder = Finder(
        settings, [line for record in records for text in texts_of(record) for line in text.split("\n")]
    )
    return [redacted_record(record, finder, layout) for record in records]


def texts_of(record: Record) -> Iterable[str]:
    yield from (record[name] for name in ("prompt", "completion", "tests") if record[name])
    yield from (m["content"] for m in record["messages"] or () if m and m["content"])


class Finder:
    """Finds what is to be replaced; secrets only in lines that the prefilter lets through, all of them at once."""

    def __init__(self, settings: Redaction, lines: list[str]) -> None:
        self.names = tuple(settings.plugins) if settings.secrets else ()
        self.finders = [personal.FINDERS[kind] for kind in settings.personal]
        self.hot: set[str] = set()
        if self.names and lines:
            column = pa.array(lines, pa.large_string())
            for pattern in unions(self.names, ()):
                self.hot.update(column.filter(pc.match_substring_regex(column, pattern)).to_pylist())

    def spans(self, text: str) -> list[Span]:
        """Spans in order, none of which overlap: of two that would, a secret's, else the longer."""
        found = [span for finder in self.finders for span in finder(text)]
        lines = text.split("\n")
        starts = accumulate((len(line) + 1 for line in lines), initial=0)
        for start, line in zip(starts, lines, strict=False):
            if line in self.hot:
                for span in secrets.secrets_of(line, self.names):
                    if any(mark in line[span.start : span.end] for mark in KEY_MARKS):
                        found += secrets.key_body(text, start + span.end)
                    else:
                        found.append(Span(start + span.start, start + span.end, span.kind))
        kept: list[Span] = []
        for span in sorted(found, key=lambda s: (s.kind not in SECRET, s.start - s.end, s.start)):
            if span.start < span.end and not any(span.start < k.end and k.start < span.end for k in kept):
                kept.append(span)
        return sorted(kept)


def redacted_record(record: Record, finder: Finder, layout: str) -> tuple[Record, Counter[str]]:
    places: Counter[str] = Counter()

    def replaced(text: str | None, is_module: bool) -> str | None:
        spans = finder.spans(text) if text else []
        if not text or not spans:
            return text
        blocks = [(0, len(text))] if is_module else [match.span(3) for match in FENCE.finditer(text)]
        spans = harmless(text, spans, blocks)
        places.update(span.kind for span in spans)
        return substituted(text, spans)

    if record["messages"] is not None:
        messages = [m and {**m, "content": replaced(m["content"], False)} for m in record["messages"]]
        return {**record, "messages": messages, "tests": replaced(record["tests"], True)}, places
    new = (
        {name: replaced(record[name], False) for name in ("prompt", "completion")}
        if layout != "whole"
        else {}
    )
    new["tests"] = replaced(record["tests"], True)
    if layout == "whole":
        new |= dict(zip(("prompt", "completion"), halves(record, finder, places), strict=True))
    return {**record, **new}, places


def halves(record: Record, finder: Finder, places: Counter[str]) -> tuple[str | None, str | None]:
    """Prompt and completion, which are one module together."""
    prompt, completion = record["prompt"], record["completion"]
    cut = len(prompt or "")
    behind = [Span(s.start + cut, s.end + cut, s.kind) for s in finder.spans(completion or "")]
    spans = [*finder.spans(prompt or ""), *behind]
    if not spans:
        return prompt, completion
    text = (prompt or "") + (completion or "")
    spans = harmless(text, spans, [(0, len(text))])
    places.update(span.kind for span in spans)
    first = [s for s in spans if s.end <= cut]
    second = [Span(s.start - cut, s.end - cut, s.kind) for s in spans if s.start >= cut]
    return prompt and substituted(prompt, first), completion and substituted(completion, second)


def substituted(text: str, spans: list[Span]) -> str:
    parts, last = [], 0
    for start, end, kind in spans:
        parts += [text[last:start], PLACEHOLDERS[kind]]
        last = end
    return "".join(parts) + text[last:]


def harmless(text: str, spans: list[Span], blocks: list[tuple[int, int]]) -> list[Span]:
    """The spans whose replacement breaks no code.

    A block that parses before and not after keeps what is replaced in its strings and comments: a number that is not
    in quotes computes something. One that still does not parse is left as it is.

    Args:
        blocks: start and end of each piece of Python in the text.
    """
    for start, end in blocks:
        inside = [
            Span(s.start - start, s.end - start, s.kind) for s in spans if start <= s.start and s.end <= end
        ]
        block = text[start:end]
        if not inside or not parses(block) or parses(substituted(block, inside)):
            continue
        quoted = in_strings(block, inside)
        if not parses(substituted(block, quoted)):
            quoted = []
        left = {(s.start + start, s.end + start) for s in inside if s not in quoted}
        spans = [s for s in spans if (s.start, s.end) not in left]
    return spans


def parses(block: str) -> bool:
    try:
        parse(textwrap.dedent(block))
    except UnparsableError:
        return False
    return True


def in_strings(block: str, spans: list[Span]) -> list[Span]:
    """Spans that lie in a string or a comment."""
    starts = list(accumulate((len(line) for line in block.splitlines(keepends=True)), initial=0))
    quoted = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(block).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                (row, column), (last_row, last_column) = token.start, token.end
                quoted.append((starts[row - 1] + column, starts[last_row - 1] + last_column))
    except (tokenize.TokenError, SyntaxError, IndexError):
        return []
    return [s for s in spans if any(start <= s.start and s.end <= end for start, end in quoted)]
