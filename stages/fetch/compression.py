"""Read a file's bytes or lines in bounded memory, decompressed as its first bytes say, whatever its name is."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from stages.fetch.row_errors import MAX_ROW_BYTES
from stages.fetch.source_file import SourceFile

MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what a cut or damaged packed file raises
PIECE = 2**20


def open_zst(stream: BinaryIO) -> Any:
    """pyarrow's reader: neither Python 3.11 nor fsspec without a package more has one."""
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"), PIECE)


UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "": lambda stream: stream,
    "gz": lambda stream: gzip.GzipFile(fileobj=stream),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zst": open_zst,
}


def compression_of(file: SourceFile) -> str:
    """Return gz, bz2, xz, zst, or "" for none, by the first bytes."""
    with file.open() as stream:
        head = stream.read(8)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def unpacked(file: SourceFile) -> BinaryIO:
    """A new stream of the file's bytes, unpacked. A cut or damaged file raises one of DAMAGED while it is read.

    Raises:
        UserError: it cannot be opened.
    """
    return cast(BinaryIO, UNPACKERS[compression_of(file)](file.open()))


def lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield lines with their ends; None for one over MAX_ROW_BYTES, which is skipped without being held."""
    limit = MAX_ROW_BYTES + 1
    while line := stream.readline(limit):
        if len(line) == limit and line[-1] != 10:
            while (rest := stream.readline(PIECE)) and rest[-1] != 10:
                pass
            yield None
        else:
            yield line
