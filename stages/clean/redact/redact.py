"""Replace secrets and personal data in the texts of rows, such that code that parsed still parses.

Placeholders are BigCode's where it has one (<KEY>, <PASSWORD>, <EMAIL>; in its dataset's `pii`).
"""

import io
import textwrap
import tokenize
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.clean.code.syntax import FENCED_BLOCK, UnparsableError, parse_python
from stages.clean.redact import personal, prefilter, secrets
from stages.clean.redact.secrets import Span
from stages.clean.settings import Redaction
from stages.clean.texts import Record, change_conversation, record_texts

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


@cache
def prefilter_patterns(plugins: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return patterns for RE2; a text that none of them matches holds nothing to redact.

    Three automata: a single one of all patterns is three times as slow as these together.
    """
    secret = prefilter.pattern_unions(secrets.detector_patterns(plugins), 2) if plugins else ()
    own = [pattern for kind in kinds for pattern in personal.PERSONAL[kind][0]]
    return (*secret, *prefilter.pattern_unions(own))


def matches_any(texts: list[str], patterns: Sequence[str]) -> list[bool]:
    """Return whether one of the RE2 patterns matches in each text."""
    column = pa.array(texts, pa.large_string())
    found = np.zeros(len(texts), bool)
    for pattern in patterns:
        found |= pc.match_substring_regex(column, pattern).to_numpy(zero_copy_only=False)
    return found.tolist()


def redact_records(
    records: list[Record], settings: Redaction, layout: str
) -> list[tuple[Record, Counter[str]]]:
    """Return each record with placeholders, and the number of replaced places by kind.

    Args:
        layout: where a row's code is: whole | fenced.
    """
    names = tuple(settings.plugins) if settings.secrets else ()
    texts = [record_texts(record) for record in records]
    suspicious = matches_any(
        ["\n".join(each) for each in texts], prefilter_patterns(names, tuple(settings.personal))
    )
    finder = SpanFinder(
        settings, [text for each, found in zip(texts, suspicious, strict=True) if found for text in each]
    )
    return [
        redact_record(record, finder, layout) if found else (record, Counter())
        for record, found in zip(records, suspicious, strict=True)
    ]


class SpanFinder:
    """Finds what to replace; secrets only in lines that pass the prefilter, run on all lines at once."""

    def __init__(self, settings: Redaction, texts: list[str]) -> None:
        self.names = tuple(settings.plugins) if settings.secrets else ()
        self.kinds = settings.personal
        self.suspicious: set[str] = set()  # lines that may hold a secret
        if self.names and texts:
            pieces = [piece for text in texts for _, piece in secrets.line_pieces(text)]
            found = matches_any(pieces, prefilter_patterns(self.names, ()))
            self.suspicious.update(compress(pieces, found))

    def spans(self, text: str) -> list[Span]:
        """Return spans in order without overlaps: of two, a secret wins, otherwise the longer."""
        found = [*personal.find_personal(text, self.kinds)]
        for start, line in secrets.line_pieces(text) if self.suspicious else ():
            for span in secrets.find_secrets(line, self.names) if line in self.suspicious else ():
                if any(mark in line[span.start : span.end] for mark in KEY_MARKS):
                    found += secrets.key_body_spans(text, start + span.end)
                else:
                    found.append(secrets.whole_token(text, *moved([span], start)))
        taken = bytearray(len(text))  # 1 where a character is replaced
        kept: list[Span] = []
        for span in sorted(found, key=lambda s: (s.kind not in SECRET_KINDS, s.start - s.end, s.start)):
            if span.start < span.end and taken.find(1, span.start, span.end) < 0:
                taken[span.start : span.end] = b"\1" * (span.end - span.start)
                kept.append(span)
        return sorted(kept)


def redact_record(record: Record, finder: SpanFinder, layout: str) -> tuple[Record, Counter[str]]:
    places: Counter[str] = Counter()

    def replaced(*texts: str | None, is_module: bool = False) -> list[str | None]:
        """Redact texts that form one: a span lies in one of them."""
        ends = [*accumulate(len(text or "") for text in texts)]
        starts = [0, *ends[:-1]]
        spans = [
            span
            for text, start in zip(texts, starts, strict=True)
            for span in moved(finder.spans(text or ""), start)
        ]
        if not spans:
            return [*texts]
        whole = "".join(text or "" for text in texts)
        blocks = [(0, len(whole))] if is_module else [match.span(3) for match in FENCED_BLOCK.finditer(whole)]
        spans = safe_spans(whole, spans, blocks)
        places.update(span.kind for span in spans)
        return [
            text and substitute(text, moved([span for span in spans if start <= span.start < end], -start))
            for text, start, end in zip(texts, starts, ends, strict=True)
        ]

    def one(text: str | None) -> str | None:
        return replaced(text)[0]

    new = {"tests": replaced(record["tests"], is_module=True)[0], **change_conversation(record, one)}
    sides = (record["prompt"], record["completion"])
    if layout == "whole" and record["messages"] is None:
        new |= dict(zip(("prompt", "completion"), replaced(*sides, is_module=True), strict=True))
    else:
        new |= dict(zip(("prompt", "completion"), map(one, sides), strict=True))
    return {**record, **new}, places


def moved(spans: Iterable[Span], by: int) -> list[Span]:
    return [Span(span.start + by, span.end + by, span.kind) for span in spans]


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
        inside = moved(spans[first:last], -start)
        block = text[start:end]
        if not inside or not parses(block) or parses(substitute(block, inside)):
            continue
        quoted = set(spans_in_strings(block, inside))
        if not parses(substitute(block, sorted(quoted))):
            quoted.clear()
        dropped.update(moved(set(inside) - quoted, start))
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
