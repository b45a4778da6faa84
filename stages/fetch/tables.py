"""Rows out of files: JSON lines, a JSON array, CSV, Parquet, Arrow; each plain or gz, bz2, xz, zst.

What a file is, is told by its bytes, never by its name. It is read in pieces: memory does not follow its size.
"""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, cast

from stages.common.errors import UserError
from stages.fetch.arrow_rows import arrow_rows, one_line, parquet_rows
from stages.fetch.bad import CUT, EMPTY, UNREADABLE, Bad
from stages.fetch.csv_rows import csv_rows
from stages.fetch.files import File
from stages.fetch.json_rows import Item, json_lines, json_values
from stages.fetch.streams import DAMAGED, gathered, packing, unpacked

READABLE = "JSON lines, a JSON array, CSV, Parquet, Arrow; each plain or gz, bz2, xz, zst"
HEAD_BYTES = 64 * 1024
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read(
    file: File, wanted: Collection[str] | None = None, formats: dict[str, int] | None = None
) -> Iterator[Item]:
    """Number (from 1; of the line for JSON lines) and columns of each row, or what is bad about it.

    Args:
        wanted: columns that are read of Parquet and Arrow; None: all.
        formats: counts the files of each format; the file's is added.

    Raises:
        UserError: the file cannot be opened.
    """
    import pyarrow as pa

    number, packed, nothing = 0, packing(file), True
    try:
        with unpacked(file) as stream:
            head, error = gathered(stream, HEAD_BYTES)
        if error is not None and not head:
            raise error
        kind = kind_of(head)
        if formats is not None:
            name = f"{kind or 'unknown'}{f', {packed}' if packed else ''}"
            formats[name] = formats.get(name, 0) + 1
        for item in items(file, kind, packed, wanted):
            number, nothing = (item.number if isinstance(item, Bad) else item[0]), False
            yield item
    except (pa.ArrowException, *DAMAGED) as error:
        yield Bad(number + 1 if number else 0, CUT, one_line(error))
        return
    if nothing:
        yield Bad(0, EMPTY)


def rows_of(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and columns of each row.

    Raises:
        UserError: a row cannot be read, or there is none; names file and row.
    """
    for item in read(file):
        if isinstance(item, Bad):
            raise UserError(item.message(file.name))
        yield item


def items(file: File, kind: str, packed: str, wanted: Collection[str] | None) -> Iterator[Item]:
    plain = not packed and not file.member
    with unpacked(file) as stream:
        if kind == "JSON lines":
            yield from json_lines(stream)
        elif kind in ("JSON array", "JSON objects"):
            yield from json_values(stream)
        elif kind == "CSV":
            yield from csv_rows(stream)
        elif kind == "Arrow":
            yield from arrow_rows(file, stream, plain, wanted)
        elif kind == "Parquet" and plain:
            yield from parquet_rows(stream, wanted)
        elif kind == "Parquet":  # its end is read first
            with tempfile.TemporaryFile() as whole:
                shutil.copyfileobj(stream, whole, 2**20)
                yield from parquet_rows(cast(BinaryIO, whole), wanted)
        elif kind:
            yield Bad(0, UNREADABLE, f"{kind}. Readable: {READABLE}")


def kind_of(head: bytes) -> str:
    """What a file holds, told by its first bytes (unpacked); "" where there are none."""
    if head.startswith(b"PAR1"):
        return "Parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "Arrow"
    for mark, name in OTHER_ENCODINGS.items():
        if head.startswith(mark):
            return f"it is text in {name}"
    if b"\0" in head:
        return "it is binary"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return ""
    if text.startswith(b"["):
        return "JSON array"
    if text.startswith(b"{"):
        return "JSON objects" if text.split(b"\n", 1)[0].strip() == b"{" and b"\n" in text else "JSON lines"
    return "JSON lines" if any(map(is_object, text.split(b"\n")[1:-1])) else "CSV"


def is_object(line: bytes) -> bool:
    """Whether a line is a JSON object: then the file is JSON lines, whatever its first line is."""
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
