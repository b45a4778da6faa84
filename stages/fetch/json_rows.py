"""Read rows from JSON: one per line, an array, or consecutive objects; an array is never held whole."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from stages.fetch.compression import PIECE, lines
from stages.fetch.row_errors import (
    CUT,
    DUPLICATE,
    MAX_ROW_BYTES,
    NOT_JSON,
    NOT_OBJECT,
    NOT_UTF8,
    OVERSIZE,
    ReadRow,
    RejectedRow,
)

SPACE = re.compile(r"[ \t\n\r\ufeff]*")
BLANK = " \t\n\r"
OUTSIDE, INSIDE = re.compile(r'["{}\[\],]'), re.compile(r'["\\]')
OPEN_TAIL = 16  # an error so near the end of what was read may be gone with more: a literal, an escape
LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class Parser:
    """JSON at the pace of json.loads, with the names that an object has twice in `twice`.

    NaN is null: pandas writes what is missing so.
    """

    def __init__(self) -> None:
        self.twice: list[str] = []
        decoder = json.JSONDecoder(
            object_pairs_hook=self.object, parse_constant=lambda word: None if word == "NaN" else float(word)
        )
        self.scan: Any = decoder.scan_once  # type: ignore[attr-defined]

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            self.twice += sorted({name for name in names if names.count(name) > 1})
        return made

    def item(self, number: int, value: Any, unit: str) -> ReadRow:
        """The value as a row, or what is wrong with it."""
        if self.twice:
            detail = f"'{self.twice[0]}'"
            self.twice.clear()
            return RejectedRow(number, DUPLICATE, detail, unit)
        if type(value) is not dict:
            return RejectedRow(
                number, NOT_OBJECT, f"expected a JSON object, found {type(value).__name__}", unit
            )
        return number, value


def json_lines(stream: BinaryIO) -> Iterator[ReadRow]:
    """Yield the row of each line, numbered by line, without empty lines."""
    parser = Parser()
    scan, twice = parser.scan, parser.twice
    for number, line in enumerate(lines(stream), 1):
        if line is None:
            yield RejectedRow(number, OVERSIZE, unit="line")
            continue
        try:
            text = line.decode("utf-8" if number > 1 else "utf-8-sig").strip(BLANK)
            if not text:
                continue
            value, end = scan(text, 0)
            if end != len(text):
                raise ValueError(f"Extra data: char {end}")
        except UnicodeDecodeError as error:
            yield RejectedRow(number, NOT_UTF8, error.reason, "line")
        except (ValueError, StopIteration, RecursionError) as error:
            cut = line[-1:] != b"\n"
            twice.clear()
            yield RejectedRow(number, CUT if cut else NOT_JSON, json_fault(error), "line")
        else:
            yield parser.item(number, value, "line") if twice or type(value) is not dict else (number, value)


def json_fault(error: Exception) -> str:
    if isinstance(error, StopIteration):
        return f"Expecting value: char {error.value}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


class TextWindow:
    """The part of a text that is being read; bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.final = stream, "", 0, False
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def more(self) -> None:
        """Forget what was passed, and read as much again as there is."""
        kept = self.text[self.at :]
        data = self.stream.read(max(PIECE, len(kept)))
        self.final = not data
        self.text, self.at = kept + self.decoder.decode(data, self.final), 0

    def next(self) -> str:
        """Return the next character that is not a space, without passing it; "" at the end."""
        while True:
            found = SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.final:
                return self.text[self.at : self.at + 1]
            self.more()

    def skip_value(self, in_array: bool) -> None:
        """Skip a value, up to the comma or bracket after it (in an array) or to its own end."""
        depth, inside = 0, False
        while True:
            found = (INSIDE if inside else OUTSIDE).search(self.text, self.at)
            if not found:
                self.at = len(self.text)
                if self.final:
                    return
                self.more()
                continue
            self.at, sign = found.end(), found.group()
            if sign == "\\":
                if self.at == len(self.text):
                    self.more()
                self.at += 1
            elif sign == '"':
                inside = not inside
            elif sign in "{[":
                depth += 1
            elif depth and sign != ",":
                depth -= 1
                if not depth and not in_array:
                    return
            elif not depth and (sign != "}" or not in_array):
                self.at -= in_array
                return


def json_values(stream: BinaryIO) -> Iterator[ReadRow]:
    """Rows of an array, or of objects one after another (over several lines each), numbered from 1.

    An element that cannot be read is skipped as far as its brackets reach.
    """
    window, parser, number = TextWindow(stream), Parser(), 0
    in_array = window.next() == "["
    window.at += in_array
    while sign := window.next():
        if in_array and sign == "]":
            window.at += 1
            if window.next():
                yield RejectedRow(number + 1, NOT_JSON, "text after the array's end")
            return
        number += 1
        item = one_value(window, parser, number)
        if isinstance(item, RejectedRow) and item.reason in (NOT_JSON, OVERSIZE):
            window.skip_value(in_array)
        yield item
        if isinstance(item, RejectedRow) and item.reason == CUT:
            return
        sign = window.next()
        if sign == "," and in_array:
            window.at += 1
        elif in_array and sign not in ("]", ""):
            number += 1
            yield RejectedRow(number, NOT_JSON, f"expected a comma after the element, found {sign!r}")
            window.skip_value(in_array)
            window.at += window.next() == ","
    if in_array:
        yield RejectedRow(number + 1, CUT, "the array has no end")


def one_value(window: TextWindow, parser: Parser, number: int) -> ReadRow:
    """The value where the window stands, which is passed if it can be read."""
    while True:
        try:
            value, end = parser.scan(window.text, window.at)
            done = end < len(window.text) or window.final
            error: Exception | None = None
        except (ValueError, StopIteration, RecursionError) as raised:
            parser.twice.clear()
            error, done = raised, not is_open(raised, len(window.text))
        if done:
            break
        if window.final:
            return RejectedRow(
                number, CUT if is_cut(error, window.text) else NOT_JSON, json_fault(error or EOFError())
            )
        if len(window.text) - window.at > MAX_ROW_BYTES:
            return RejectedRow(number, OVERSIZE)
        parser.twice.clear()
        window.more()
    if error is not None:
        return RejectedRow(number, NOT_JSON, json_fault(error))
    text, item = window.text[window.at : end], parser.item(number, value, "row")
    try:
        if len(text) > MAX_ROW_BYTES or (not text.isascii() and len(text.encode()) > MAX_ROW_BYTES):
            return RejectedRow(number, OVERSIZE)
    except UnicodeEncodeError:
        item = RejectedRow(number, NOT_UTF8)
    window.at = end
    return item


def is_open(error: Exception, length: int) -> bool:
    """Whether more text may repair it: a string without its end, or an error right at the end."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg.startswith("Unterminated string") or error.pos >= length - OPEN_TAIL
    return isinstance(error, StopIteration) and error.value >= length - OPEN_TAIL


def is_cut(error: Exception | None, text: str) -> bool:
    """Whether what is wrong at the text's end is that it ends."""
    if isinstance(error, StopIteration):
        tail = text[error.value :].rstrip(BLANK)
        return any(word.startswith(tail) for word in LITERALS)
    if isinstance(error, json.JSONDecodeError):
        ends = error.pos >= len(text.rstrip(BLANK))
        return ends or error.msg.startswith("Unterminated string") or "escape" in error.msg
    return True
