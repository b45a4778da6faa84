"""Read rows from CSV (RFC 4180; also with tabs or semicolons) with a header line, in bounded memory."""

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO

from stages.fetch.compression import PIECE
from stages.fetch.row_errors import (
    CUT,
    DUPLICATE,
    FIELD_COUNT,
    MAX_ROW_BYTES,
    NOT_CSV,
    NOT_UTF8,
    OVERSIZE,
    ReadRow,
    RejectedRow,
)


class Records:
    """Lines for csv.reader, which asks for the next one within a quoted field. A row over MAX_ROW_BYTES is not handed over."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = 0  # bytes of the row so far; csv_rows resets it after each row
        self.over = False
        self.mark = b"\xef\xbb\xbf"  # before the first line

    def __iter__(self) -> Iterator[str]:
        limit = MAX_ROW_BYTES + 1
        while line := self.stream.readline(limit):
            line, self.mark = line.removeprefix(self.mark), b""
            inside = self.size > 0
            self.size += len(line)
            if self.size > MAX_ROW_BYTES:
                self.over = True
                self.pass_over(line, inside)
                yield '"\n' if inside else "\n"
            else:
                yield line.decode("utf-8", "surrogateescape")

    def pass_over(self, line: bytes, inside: bool) -> None:
        """Read to the end of the row: a line's end outside quotes."""
        while line:
            inside ^= line.count(b'"') % 2 == 1
            if line[-1] == 10 and not inside:
                return
            line = self.stream.readline(PIECE)


def delimiter_of(head: bytes, name: str) -> str:
    """Return the most frequent of tab, comma and semicolon in the first line; with none of them, by the name."""
    line = re.sub(rb'"[^"]*"', b"", head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").split(b"\n", 1)[0])
    found = [mark for mark in "\t,;" if mark.encode() in line]
    by_name = "\t" if re.search(r"\.(tsv|tab)(\.|$)", name.lower()) else ","
    return max(found, key=lambda mark: line.count(mark.encode()), default=by_name)


def csv_rows(stream: BinaryIO, delimiter: str = ",") -> Iterator[ReadRow]:
    """Yield rows numbered from 1 after the header, without empty lines; a repeated name rejects all rows."""
    csv.field_size_limit(2 * MAX_ROW_BYTES)
    records = Records(stream)
    reader = csv.reader(iter(records), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 0
    twice: str | None = None
    while True:
        records.size = 0
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cut = str(error) == "unexpected end of data"
            yield RejectedRow(number + 1, CUT if cut else NOT_CSV, f"{error}; line {reader.line_num}")
            number += 1
            continue
        if header is None and fields:
            header = fields
            twice = next((name for name in header if header.count(name) > 1), None)
            continue
        if not fields and not records.over:
            continue
        number += 1
        if records.over:
            records.over = False
            yield RejectedRow(number, OVERSIZE)
        elif header is None or len(fields) != len(header):
            yield RejectedRow(
                number, FIELD_COUNT, f"{len(fields)} and {len(header or [])}, between {delimiter!r}"
            )
        elif twice is not None:
            yield RejectedRow(number, DUPLICATE, f"'{twice}'")
        elif not is_text("".join(fields)):
            yield RejectedRow(number, NOT_UTF8)
        else:
            yield number, dict(zip(header, fields, strict=True))


def is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
