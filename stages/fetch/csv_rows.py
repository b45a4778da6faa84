"""Read rows from CSV (RFC 4180; also with tabs or semicolons) with a header line, in bounded memory."""

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO

from stages.fetch.compression import lines
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
    RowError,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def delimiter_of(head: bytes, name: str) -> str:
    """Return the most frequent of tab, comma and semicolon in the first line; with none of them, by the name."""
    line = re.sub(rb'"[^"]*"', b"", head.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n").split(b"\n", 1)[0])
    found = [mark for mark in "\t,;" if mark.encode() in line]
    by_name = "\t" if re.search(r"\.(tsv|tab)(\.|$)", name.lower()) else ","
    return max(found, key=lambda mark: line.count(mark.encode()), default=by_name)


class CsvLines:
    """The lines of a file for csv.reader, which asks for the next one within a quoted field."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = 0  # bytes of the row so far

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(lines(self.stream)):
            self.size += MAX_ROW_BYTES + 1 if line is None else len(line)
            if line is None or self.size > MAX_ROW_BYTES:
                raise RowError(OVERSIZE, "what follows is not read")
            yield line.removeprefix(b"" if number else BYTE_ORDER_MARK).decode("utf-8", "surrogateescape")


def csv_rows(stream: BinaryIO, delimiter: str = ",") -> Iterator[ReadRow]:
    """Yield rows numbered from 1 after the header, without empty lines.

    A name that comes twice rejects the file, and a row that is too large ends it.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    texts = CsvLines(stream)
    reader = csv.reader(iter(texts), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    while True:
        texts.size = 0
        try:
            fields = next(reader)
        except StopIteration:
            return
        except RowError as error:
            yield RejectedRow(number + 1, error.reason, str(error))
            return
        except csv.Error as error:
            number += 1
            cut = str(error) == "unexpected end of data"
            yield RejectedRow(number, CUT if cut else NOT_CSV, f"{error}; line {reader.line_num}")
            continue
        if not fields:
            continue
        if not header:
            header = fields
            if twice := next((name for name in header if header.count(name) > 1), ""):
                yield RejectedRow(0, DUPLICATE, f"'{twice}'")
                return
            continue
        number += 1
        if len(fields) != len(header):
            yield RejectedRow(number, FIELD_COUNT, f"{len(fields)} and {len(header)}, between {delimiter!r}")
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
