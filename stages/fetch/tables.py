"""Rows out of files: JSON lines, a JSON array, Parquet, CSV; each also gzipped."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stages.common.errors import UserError

READABLE = ".jsonl, .ndjson, .json, .parquet, .csv (each also with .gz)"


def rows_of(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1; of the line for JSON lines) and columns of each row of a file.

    Raises:
        UserError: the file is cut, is not what its name says, or has no rows; names file and row.
    """
    suffixes = PurePosixPath(name.lower()).suffixes
    if suffixes and suffixes[-1] == ".gz":
        data, suffixes = gunzipped(name, data), suffixes[:-1]
    kind = suffixes[-1] if suffixes else ""
    if kind in (".jsonl", ".ndjson"):
        rows = json_lines(name, data)
    elif kind == ".json":
        rows = json_array(name, data) if data.lstrip()[:1] == b"[" else json_lines(name, data)
    elif kind == ".parquet":
        rows = parquet(name, data)
    elif kind == ".csv":
        rows = comma_separated(name, data)
    else:
        raise UserError(f"{name}: not a file that can be read as rows. Readable: {READABLE}")
    number = 0
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row
    if number == 0:
        raise UserError(f"{name}: no rows")


def gunzipped(name: str, data: bytes) -> bytes:
    """Unpacked bytes.

    Raises:
        UserError: the file is cut or is no gzip.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: not readable as gzip, or cut ({error})") from None


def decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8 ({error.reason})") from None


def json_lines(name: str, data: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(decoded(name, data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise UserError(f"{name}, line {number}: not JSON, or cut ({error})") from None


def json_array(name: str, data: bytes) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(json.loads(decoded(name, data)), 1)
    except ValueError as error:
        raise UserError(f"{name}: not JSON, or cut ({error})") from None


def parquet(name: str, data: bytes) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from enumerate(pq.read_table(pa.BufferReader(data)).to_pylist(), 1)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{name}: not readable as Parquet, or cut ({' '.join(str(error).split())})") from None


def comma_separated(name: str, data: bytes) -> Iterator[tuple[int, Any]]:
    """Rows under a header line; a row with more or fewer fields than the header is an error."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(decoded(name, data), newline=""), strict=True)
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise UserError(f"{name}, row {number}: it has another number of fields than the header")
            yield number, row
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.reader.line_num}: not CSV, or cut ({error})") from None
