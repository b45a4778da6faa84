"""Read rows from files: JSON lines, a JSON array, CSV or TSV, Parquet or Arrow; each plain or gz, bz2, xz, zst.

The format is recognised by the file's bytes, never by its name. Memory does not grow with the file's size.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError, one_line
from stages.common.core.stage import is_disk_full
from stages.fetch.arrow_rows import columnar_rows
from stages.fetch.compression import DAMAGED, PIECE, compression_of, unpacked
from stages.fetch.csv_rows import csv_rows, delimiter_of
from stages.fetch.json_rows import json_lines, json_values
from stages.fetch.row_errors import CUT, EMPTY, UNREADABLE, ReadRow, RejectedRow
from stages.fetch.source_file import SourceFile

READABLE = "JSON lines, a JSON array, CSV, TSV, Parquet, Arrow; each plain or gz, bz2, xz, zst"
HEAD_BYTES = 64 * 1024
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def stream_rows(file: SourceFile, formats: dict[str, int] | None = None) -> Iterator[ReadRow]:
    """Yield the number (from 1; of the line for JSON lines) and columns of each row, or why it is rejected.

    Args:
        formats: number of files of each format; this file is added.

    Raises:
        UserError: the file cannot be opened.
    """
    import pyarrow as pa

    number, packed, is_empty = 0, compression_of(file), True
    try:
        with unpacked(file) as stream:
            head = stream.read(HEAD_BYTES)
        kind = detect_format(head)
        if formats is not None:
            name = f"{kind or 'unknown'}{f', {packed}' if packed else ''}"
            formats[name] = formats.get(name, 0) + 1
        for item in rows_by_format(file, kind, head, packed):
            number, is_empty = (item.number if isinstance(item, RejectedRow) else item[0]), False
            yield item
    except (pa.ArrowException, *DAMAGED) as error:
        if is_disk_full(error):  # where the file is unpacked; the file itself is fine
            raise
        yield RejectedRow(number + 1 if number else 0, CUT, one_line(error))
        return
    if is_empty:
        yield RejectedRow(0, EMPTY)


def stream_strict_rows(file: SourceFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and columns of each row.

    Raises:
        UserError: a row is rejected, or there are none; names file and row.
    """
    for item in stream_rows(file):
        if isinstance(item, RejectedRow):
            raise UserError(item.message(file.name))
        yield item


def rows_by_format(file: SourceFile, kind: str, head: bytes, packed: str) -> Iterator[ReadRow]:
    if kind in ("Parquet", "Arrow"):
        with unpacked_path(file, packed) as path:
            yield from columnar_rows(path, kind)
        return
    with unpacked(file) as stream:
        if kind == "JSON lines":
            yield from json_lines(stream)
        elif kind in ("JSON array", "JSON objects"):
            yield from json_values(stream)
        elif kind == "CSV":
            yield from csv_rows(stream, delimiter_of(head, file.name))
        elif kind:
            yield RejectedRow(0, UNREADABLE, f"{kind}. Readable: {READABLE}")


@contextmanager
def unpacked_path(file: SourceFile, packed: str) -> Iterator[Path]:
    """Yield the path of the decompressed file, for readers that seek."""
    if not packed and not file.member:
        yield file.path
        return
    with tempfile.NamedTemporaryFile() as whole, unpacked(file) as stream:
        shutil.copyfileobj(stream, whole, PIECE)
        whole.flush()
        yield Path(whole.name)


def detect_format(head: bytes) -> str:
    """Return a file's format by its first decompressed bytes; "" for an empty file."""
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
    """Whether a line is a JSON object; one makes the file JSON lines, whatever its first line is."""
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
