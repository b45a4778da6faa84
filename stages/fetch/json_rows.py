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
    RowError,
)

SPACE = re.compile(r"[ \t\n\r\ufeff]*")
BLANK = " \t\n\r"
OPEN_TAIL = 16  # an error so near the end of what was read may be gone with more: a literal, an escape


class ObjectDecoder(json.JSONDecoder):
    """Decodes JSON, and notes in `twice` the names that an object has twice."""

    def __init__(self) -> None:
        self.twice: list[str] = []
        super().__init__(object_pairs_hook=self.object)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            self.twice += sorted({name for name in names if names.count(name) > 1})
        return made

    def item(self, number: int, value: Any, unit: str) -> ReadRow:
        """Return the value as a row, or what is wrong with it."""
        if self.twice:
            detail = f"'{self.twice[0]}'"
            self.twice.clear()
            return RejectedRow(number, DUPLICATE, detail, unit)
        if type(value) is not dict:
            return RejectedRow(number, NOT_OBJECT, f"expected a JSON object, found {type(value).__name__}", unit)  # fmt: skip
        return number, value


def json_lines(stream: BinaryIO) -> Iterator[ReadRow]:
    """Yield the row of each line, numbered by line, without empty lines."""
    decoder = ObjectDecoder()
    for number, line in enumerate(lines(stream), 1):
        if line is None:
            yield RejectedRow(number, OVERSIZE, unit="line")
            continue
        try:
            text = line.decode("utf-8" if number > 1 else "utf-8-sig").strip(BLANK)
            if text:
                yield decoder.item(number, decoder.decode(text), "line")
        except UnicodeDecodeError as error:
            yield RejectedRow(number, NOT_UTF8, error.reason, "line")
        except (ValueError, RecursionError) as error:
            decoder.twice.clear()
            yield RejectedRow(number, NOT_JSON if line.endswith(b"\n") else CUT, json_fault(error), "line")


def json_fault(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


class TextWindow:
    """The part of a text that is being read; bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.final = stream, "", 0, False
        self.bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def more(self) -> None:
        """Forget what was passed, and read as much again as there is."""
        kept = self.text[self.at :]
        data = self.stream.read(max(PIECE, len(kept)))
        self.final = not data
        self.text, self.at = kept + self.bytes.decode(data, self.final), 0

    def next(self) -> str:
        """Return the next character that is not a space, without passing it; "" at the end."""
        while True:
            found = SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.final:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self, decoder: ObjectDecoder) -> Any:
        """Return the value that begins here, and pass it.

        Raises:
            RowError: it cannot be read or is too large, so nothing behind it is read; or it is not UTF-8.
        """
        while True:
            decoder.twice.clear()
            try:
                value, end = decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.final:
                    break
            except (ValueError, RecursionError) as error:
                end = len(self.text.rstrip(BLANK)) if self.final else len(self.text) - OPEN_TAIL
                is_open = isinstance(error, json.JSONDecodeError) and (
                    error.pos >= end or error.msg.startswith("Unterminated string")
                )
                if self.final or not is_open:
                    raise RowError(CUT if is_open else NOT_JSON, json_fault(error)) from None
            if len(self.text) - self.at > MAX_ROW_BYTES:
                raise RowError(OVERSIZE, "what follows is not read")
            self.more()
        text, self.at = self.text[self.at : end], end
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise RowError(NOT_UTF8, error.reason) from None
        if size > MAX_ROW_BYTES:
            raise RowError(OVERSIZE, "what follows is not read")
        return value


def json_values(stream: BinaryIO) -> Iterator[ReadRow]:
    """Yield the rows of an array, or of objects one after another (over several lines each), numbered from 1.

    What cannot be read or is too large ends the file, as one bad row.
    """
    window, decoder, number = TextWindow(stream), ObjectDecoder(), 0
    in_array = window.next() == "["
    window.at += in_array
    while (sign := window.next()) and not (in_array and sign == "]"):
        number += 1
        try:
            yield decoder.item(number, window.value(decoder), "row")
        except RowError as error:
            yield RejectedRow(number, error.reason, str(error))
            if error.reason != NOT_UTF8:
                return
        if in_array and (sign := window.next()) == ",":
            window.at += 1
        elif in_array and sign not in ("]", ""):
            yield RejectedRow(number + 1, NOT_JSON, f"expected a comma after row {number}, found {sign!r}")
            return
    window.at += in_array
    if in_array and not sign:
        yield RejectedRow(number + 1, CUT, "the array has no end")
    elif in_array and window.next():
        yield RejectedRow(number + 1, NOT_JSON, "text after the array's end")
