"""Files of a source: on disk, or members of a wheel; readers may open them several times."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from stages.common.core.errors import UserError


@dataclass(frozen=True)
class SourceFile:
    """A downloaded or local file."""

    # Its path within the source, which rows and errors use.
    name: str
    # Its path on disk; for a member, the wheel's.
    path: Path
    # The member's name inside the wheel at `path`; "": the file is `path` itself.
    member: str = ""

    def open(self) -> BinaryIO:
        """Open a new seekable stream; seeking back in a member unpacks it again.

        Raises:
            UserError: the file cannot be opened.
        """
        try:
            if not self.member:
                return self.path.open("rb")
            with zipfile.ZipFile(self.path) as archive:  # the member's stream keeps the file open
                return cast(BinaryIO, archive.open(self.member))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.name}: cannot be opened ({error})") from None

    def read(self) -> bytes:
        """Return the whole file; meant for small ones (benchmarks, Python files).

        Raises:
            UserError: the file cannot be opened.
        """
        with self.open() as stream:
            return stream.read()

    @property
    def size(self) -> int:
        """Size in bytes; of a member, its unpacked size."""
        if not self.member:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).file_size


@dataclass(frozen=True)
class PinnedFiles:
    """Files that match their source's pin."""

    files: list[SourceFile]
    # Of each file, by name.
    sha256: dict[str, str]
    # What the pin resolved to, for sources.lock.json: a commit, a sha256, a .dvc file.
    resolved: dict[str, Any]
    # What a repository says its licence is; "": the configuration's
    licence: str = ""
