"""A file of a source, opened as often as its reader needs: on disk, or a member of a wheel."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from stages.common.errors import UserError


@dataclass(frozen=True)
class File:
    """A file that was brought here. `name` is what rows and errors call it: its path in the source, not on disk."""

    name: str
    path: Path  # on disk; of the wheel where there is a member
    member: str = ""  # inside the wheel at `path`; "": the file is `path` itself

    def open(self) -> BinaryIO:
        """A new stream at the first byte, seekable (backwards in a member: by unpacking it again).

        Raises:
            UserError: it cannot be opened; names the file.
        """
        try:
            if not self.member:
                return self.path.open("rb")
            with zipfile.ZipFile(self.path) as archive:  # the member's stream keeps the archive's file open
                return cast(BinaryIO, archive.open(self.member))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.name}: cannot be opened ({error})") from None

    def read(self) -> bytes:
        """The whole file, for small ones (benchmarks, Python files).

        Raises:
            UserError: it cannot be opened; names the file.
        """
        with self.open() as stream:
            return stream.read()

    @property
    def size(self) -> int:
        """Bytes of the file, unpacked where it is a member."""
        if not self.member:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).file_size


@dataclass(frozen=True)
class Origin:
    """What a source's place gave: its files, the sha256 of each by name, and what goes into sources.lock.json."""

    files: list[File]
    sha256: dict[str, str]
    came: dict[str, Any]
