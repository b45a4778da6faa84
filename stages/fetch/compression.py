"""Read a file's bytes or lines in bounded memory, decompressed according to its magic bytes."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from stages.common.errors import UserError
from stages.fetch.row_errors import MAX_ROW_BYTES
from stages.fetch.source_file import SourceFile

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


def compression_of(file: SourceFile) -> str:
    """Return gz, bz2, xz, zst, or "" for none, by the first bytes."""
    with file.open() as stream:
        head = stream.read(8)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def unpacked(file: SourceFile) -> BinaryIO:
    """A new stream of the file's bytes, unpacked; memory does not follow how far they unpack.

    A cut or damaged file raises one of DAMAGED while it is read.

    Raises:
        UserError: it cannot be opened, or would take too much memory to unpack.
    """
    kind, stream = compression_of(file), file.open()
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


def require_little_memory(file: SourceFile) -> None:
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
                    f"{file.name}: decompressing it takes more than {XZ_MEMORY // 2**20} MiB of memory. "
                    "Recompress it at a lower level."
                ) from None


def read_up_to(stream: Any, size: int) -> tuple[bytes, Exception | None]:
    """Read up to `size` bytes, fewer only at the end, and the error that followed if the file is truncated."""
    parts, left = [], size
    try:
        while left > 0 and (part := stream.read1(left)):
            parts.append(part)
            left -= len(part)
    except DAMAGED as error:
        return b"".join(parts), error
    return b"".join(parts), None


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
