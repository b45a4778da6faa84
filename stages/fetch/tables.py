"""Rows out of files: JSON lines, a JSON array, CSV, Parquet, Arrow; each plain or gz, bz2, xz, zst.

What a file is, is told by its bytes, never by its name. It is read in pieces: memory does not follow its size.
"""

import json
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.stage import disk_is_full
from stages.fetch.arrow_rows import arrow_rows, one_line, parquet_rows
from stages.fetch.compression import DAMAGED, PIECE, gathered, packing, unpacked
from stages.fetch.csv_rows import csv_rows
from stages.fetch.json_rows import Item, json_lines, json_values
from stages.fetch.origin import File
from stages.fetch.row_errors import CUT, EMPTY, UNREADABLE, Bad

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
        if disk_is_full(error):  # no fault of the file: of where it is unpacked
            raise
        yield Bad(number + 1 if number else 0, CUT, one_line(error))
        return
    if nothing:
        yield Bad(0, EMPTY)


def rows_of(file: File, formats: dict[str, int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and columns of each row.

    Raises:
        UserError: a row cannot be read, or there is none; names file and row.
    """
    for item in read(file, None, formats):
        if isinstance(item, Bad):
            raise UserError(item.message(file.name))
        yield item


def items(file: File, kind: str, packed: str, wanted: Collection[str] | None) -> Iterator[Item]:
    if kind in ("Parquet", "Arrow"):
        with on_disk(file, packed) as (path, error):
            yield from columns_of(path, kind, error, wanted)
        return
    with unpacked(file) as stream:
        if kind == "JSON lines":
            yield from json_lines(stream)
        elif kind in ("JSON array", "JSON objects"):
            yield from json_values(stream)
        elif kind == "CSV":
            yield from csv_rows(stream)
        elif kind:
            yield Bad(0, UNREADABLE, f"{kind}. Readable: {READABLE}")


@contextmanager
def on_disk(file: File, packed: str) -> Iterator[tuple[Path, Exception | None]]:
    """Where the file's bytes lie unpacked, for readers that move about in them, and what was raised where it is cut."""
    if not packed and not file.member:
        yield file.path, None
        return
    with tempfile.NamedTemporaryFile() as whole, unpacked(file) as stream:
        error = None
        while error is None:
            data, error = gathered(stream, PIECE)
            whole.write(data)
            if not data:
                break
        whole.flush()
        yield Path(whole.name), error


def columns_of(
    path: Path, kind: str, error: Exception | None, wanted: Collection[str] | None
) -> Iterator[Item]:
    """Rows of Parquet or Arrow; of a cut Arrow file those before the cut, which `error` was raised at."""
    item: Item | None = None
    if kind == "Arrow":
        for item in arrow_rows(path, wanted):
            yield item
    elif error is None:
        with path.open("rb") as stream:
            yield from parquet_rows(stream, wanted)
    if error is not None and not isinstance(item, Bad):
        raise error


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
