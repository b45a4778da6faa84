"""Bytes of a file, unpacked by its magic bytes, and lines of it, in bounded memory."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from stages.common.errors import UserError
from stages.fetch.origin import File
from stages.fetch.row_errors import MAX_ROW_BYTES

MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)  # what a cut or damaged packed file raises
XZ_MEMORY = 256 * 2**20  # bytes; `xz -9` needs 65 MiB to unpack, a file made to harm can ask for 4 GiB
PIECE = 2**20
CUT_LOSS = 4096  # bytes of a zst file before its cut that are lost: what pyarrow had unpacked when it raised


class Reader(io.RawIOBase):
    """A stream of pyarrow's as one of Python's."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(min(len(buffer), CUT_LOSS))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def packing(file: File) -> str:
    """gz, bz2, xz, zst, or "" for none: told by the first bytes."""
    with file.open() as stream:
        head = stream.read(8)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def unpacked(file: File) -> BinaryIO:
    """A new stream of the file's bytes, unpacked; memory does not follow how far they unpack.

    A cut or damaged file raises one of DAMAGED while it is read.

    Raises:
        UserError: it cannot be opened, or would take too much memory to unpack.
    """
    kind, stream = packing(file), file.open()
    if kind == "gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if kind == "bz2":
        return cast(BinaryIO, bz2.BZ2File(stream))
    if kind == "xz":
        require_little_memory(file)
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if kind == "zst":
        import pyarrow as pa

        return io.BufferedReader(Reader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")), PIECE)
    return stream


def require_little_memory(file: File) -> None:
    """The first block's header says how much memory unpacking takes.

    Raises:
        UserError: more than XZ_MEMORY.
    """
    with file.open() as stream:
        try:
            lzma.LZMADecompressor(memlimit=XZ_MEMORY).decompress(stream.read(4096), max_length=1)
        except lzma.LZMAError as error:
            if "emory" in str(error):
                raise UserError(
                    f"{file.name}: unpacking takes more than {XZ_MEMORY // 2**20} MiB of memory"
                ) from None


def gathered(stream: Any, size: int) -> tuple[bytes, Exception | None]:
    """Up to `size` bytes, fewer only at the end, and what was raised behind them where the file is cut."""
    parts, left = [], size
    try:
        while left > 0 and (part := stream.read1(left)):
            parts.append(part)
            left -= len(part)
    except DAMAGED as error:
        return b"".join(parts), error
    return b"".join(parts), None


def lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends; None for one over MAX_ROW_BYTES, which is passed over without being held."""
    limit = MAX_ROW_BYTES + 1
    while line := stream.readline(limit):
        if len(line) == limit and line[-1] != 10:
            while (rest := stream.readline(PIECE)) and rest[-1] != 10:
                pass
            yield None
        else:
            yield line
