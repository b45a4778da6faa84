"""Replace secrets and personal data in the texts of rows, such that code that parsed still parses.

Placeholders are BigCode's where it has one (<KEY>, <PASSWORD>, <EMAIL>; in its dataset's `pii`).
"""

import io
import textwrap
import tokenize
from bisect import bisect_left, bisect_right
from collections import Counter
from functools import cache
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from stages.clean.code.syntax import FENCED_BLOCK, UnparsableError, parse_python
from stages.clean.redact import personal, prefilter, secrets
from stages.clean.redact.secrets import Span
from stages.clean.settings import Redaction
from stages.clean.texts import TextRecord, change_conversation, change_texts

REPLACEMENTS = {
    "key": "<KEY>",
    "password": "<PASSWORD>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE_NUMBER>",
    "iban": "<IBAN>",
    "card": "<CREDIT_CARD>",
}
SECRET_KINDS = ("key", "password")
KEY_MARKS = ("PRIVATE KEY", "PuTTY-User-Key-File")


def redaction_patterns(settings: Redaction) -> list[str]:
    """Return patterns for RE2; a text that none of them matches holds nothing to redact."""
    names = tuple(settings.plugins) if settings.secrets else ()
    return list(cached_patterns(names, tuple(settings.personal)))


@cache
def cached_patterns(plugins: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return three automata; a single one of all patterns is three times as slow as these together."""
    secret = prefilter.pattern_unions(secrets.detector_patterns(plugins), 2) if plugins else ()
    own = [pattern for kind in kinds for pattern in personal.PERSONAL_PATTERNS[kind]]
    return (*secret, *prefilter.pattern_unions(own))


def redact_records(
    records: list[TextRecord], settings: Redaction, layout: str
) -> list[tuple[TextRecord, Counter[str]]]:
    """Return each record with placeholders, and the number of replaced places by kind.

    Args:
        records: of rows that `redaction_patterns` match.
        layout: where a row's code is: whole | fenced.
    """
    texts: list[str] = []

    def collect(text: str) -> tuple[str, Counter[str]]:
        texts.append(text)
        return text, Counter()

    for record in records:
        change_texts(record, collect)
    finder = SpanFinder(settings, texts)
    return [redact_record(record, finder, layout) for record in records]


class SpanFinder:
    """Finds what to replace; secrets only in lines that pass the prefilter, run on all lines at once."""

    def __init__(self, settings: Redaction, texts: list[str]) -> None:
        self.names = tuple(settings.plugins) if settings.secrets else ()
        self.finders = [personal.PERSONAL_FINDERS[kind] for kind in settings.personal]
        self.suspicious: set[str] = set()  # lines that may hold a secret
        if self.names and texts:
            pieces = [piece for text in texts for _, piece in secrets.line_pieces(text)]
            column = pa.array(pieces, pa.large_string())
            for pattern in cached_patterns(self.names, ()):
                self.suspicious.update(column.filter(pc.match_substring_regex(column, pattern)).to_pylist())

    def spans(self, text: str) -> list[Span]:
        """Return spans in order without overlaps: of two, a secret wins, otherwise the longer."""
        found = [span for finder in self.finders for span in finder(text)]
        for start, line in secrets.line_pieces(text) if self.suspicious else ():
            for span in secrets.find_secrets(line, self.names) if line in self.suspicious else ():
                if any(mark in line[span.start : span.end] for mark in KEY_MARKS):
                    found += secrets.key_body_spans(text, start + span.end)
                else:
                    moved = Span(start + span.start, start + span.end, span.kind)
                    found.append(secrets.whole_token(text, moved))
        taken = bytearray(len(text))  # 1 where a character is replaced
        kept: list[Span] = []
        for span in sorted(found, key=lambda s: (s.kind not in SECRET_KINDS, s.start - s.end, s.start)):
            if span.start < span.end and taken.find(1, span.start, span.end) < 0:
                taken[span.start : span.end] = b"\1" * (span.end - span.start)
                kept.append(span)
        return sorted(kept)


def redact_record(record: TextRecord, finder: SpanFinder, layout: str) -> tuple[TextRecord, Counter[str]]:
    places: Counter[str] = Counter()

    def replaced(text: str | None, is_module: bool = False) -> str | None:
        spans = finder.spans(text) if text else []
        if not text or not spans:
            return text
        blocks = [(0, len(text))] if is_module else [match.span(3) for match in FENCED_BLOCK.finditer(text)]
        spans = safe_spans(text, spans, blocks)
        places.update(span.kind for span in spans)
        return substitute(text, spans)

    new = {"tests": replaced(record["tests"], True), **change_conversation(record, replaced)}
    if layout == "whole" and record["messages"] is None:
        new |= dict(zip(("prompt", "completion"), redact_module(record, finder, places), strict=True))
    else:
        new |= {name: replaced(record[name]) for name in ("prompt", "completion")}
    return {**record, **new}, places


def redact_module(
    record: TextRecord, finder: SpanFinder, places: Counter[str]
) -> tuple[str | None, str | None]:
    """Redact prompt and completion, which form one module."""
    prompt, completion = record["prompt"], record["completion"]
    cut = len(prompt or "")
    in_completion = [Span(s.start + cut, s.end + cut, s.kind) for s in finder.spans(completion or "")]
    spans = [*finder.spans(prompt or ""), *in_completion]
    if not spans:
        return prompt, completion
    text = (prompt or "") + (completion or "")
    spans = safe_spans(text, spans, [(0, len(text))])
    places.update(span.kind for span in spans)
    first = [s for s in spans if s.end <= cut]
    second = [Span(s.start - cut, s.end - cut, s.kind) for s in spans if s.start >= cut]
    return prompt and substitute(prompt, first), completion and substitute(completion, second)


def substitute(text: str, spans: list[Span]) -> str:
    parts, last = [], 0
    for start, end, kind in spans:
        parts += [text[last:start], REPLACEMENTS[kind]]
        last = end
    return "".join(parts) + text[last:]


def safe_spans(text: str, spans: list[Span], blocks: list[tuple[int, int]]) -> list[Span]:
    """Return the spans that can be replaced without breaking code.

    If a block parses before and not after, only spans in its strings and comments are replaced: an unquoted
    number computes something. If it still does not parse, the block is left alone.

    Args:
        blocks: start and end of each piece of Python in the text.
    """
    dropped: set[Span] = set()
    for start, end in blocks:
        first = bisect_left(spans, start, key=lambda span: span.start)
        last = bisect_right(spans, end, key=lambda span: span.end)
        inside = [Span(s.start - start, s.end - start, s.kind) for s in spans[first:last]]
        block = text[start:end]
        if not inside or not parses(block) or parses(substitute(block, inside)):
            continue
        quoted = set(spans_in_strings(block, inside))
        if not parses(substitute(block, sorted(quoted))):
            quoted.clear()
        dropped.update(Span(s.start + start, s.end + start, s.kind) for s in inside if s not in quoted)
    return [span for span in spans if span not in dropped]


def parses(block: str) -> bool:
    try:
        parse_python(textwrap.dedent(block))
    except UnparsableError:
        return False
    return True


def spans_in_strings(block: str, spans: list[Span]) -> list[Span]:
    """Return the spans that lie in a string or a comment."""
    starts = list(accumulate((len(line) for line in block.splitlines(keepends=True)), initial=0))
    quoted = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(block).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                (row, column), (last_row, last_column) = token.start, token.end
                quoted.append((starts[row - 1] + column, starts[last_row - 1] + last_column))
    except (tokenize.TokenError, SyntaxError, IndexError):
        return []
    before = [bisect_right(quoted, span.start, key=lambda pair: pair[0]) - 1 for span in spans]
    return [s for s, i in zip(spans, before, strict=True) if i >= 0 and s.end <= quoted[i][1]]
