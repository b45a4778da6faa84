"""Documents on their way: flat files in a scratch folder, written from front to back and then memory-mapped."""

import mmap
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from stages.pack.documents import Part


@dataclass
class Documents:
    """Documents, memory-mapped; document i is `starts[i] : starts[i + 1]` of `ids` and `loss`."""

    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.uint8]  # 1: the token is trained on
    starts: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint8]  # UTF-8 of the row ids
    name_starts: npt.NDArray[np.int64]
    components: npt.NDArray[np.uint64]  # hash of the component of each document
    characters: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint8]  # 1: the document is the first of its row

    def __len__(self) -> int:
        return len(self.starts) - 1

    def part(self, first: int, last: int) -> "Documents":
        """Documents `first : last`; nothing is copied."""
        bounds, those = slice(first, last + 1), slice(first, last)
        return replace(
            self,
            starts=self.starts[bounds],
            name_starts=self.name_starts[bounds],
            **{
                name: getattr(self, name)[those] for name in ("components", "characters", "labelled", "first")
            },
        )

    def release(self) -> None:
        """Pages that were read stay in the system's cache, but no longer count as this process's memory."""
        for each in fields(self):
            pages = getattr(getattr(self, each.name), "_mmap", None)
            if pages is not None:
                pages.madvise(mmap.MADV_DONTNEED)


TYPES = {
    "ids": np.int32,
    "loss": np.uint8,
    "starts": np.int64,
    "names": np.uint8,
    "name_starts": np.int64,
    "components": np.uint64,
    "characters": np.int64,
    "labelled": np.int64,
    "first": np.uint8,
}


class Spool:
    """Takes parts in their order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.files = {field.name: (folder / field.name).open("wb") for field in fields(Documents)}
        self.tokens = self.bytes = self.documents = self.rows = 0
        for name in ("starts", "name_starts"):
            self.files[name].write(np.zeros(1, np.int64).tobytes())

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.close()

    def append(self, part: Part) -> None:
        for name in ("ids", "loss", "names", "components", "characters", "labelled", "first"):
            self.files[name].write(getattr(part, name))
        self.files["starts"].write((self.tokens + np.cumsum(part.lengths, dtype=np.int64)).tobytes())
        self.files["name_starts"].write((self.bytes + np.cumsum(part.name_lengths, dtype=np.int64)).tobytes())
        self.tokens += int(part.lengths.sum())
        self.bytes += len(part.names)
        self.documents += len(part.lengths)
        self.rows += int(part.first.sum())

    def read(self) -> Documents:
        """What was written, once nothing more comes."""
        self.__exit__(None, None, None)
        return documents_in(self.folder)


def documents_in(folder: Path) -> Documents:
    """What a spool has written there."""
    return Documents(**{name: mapped(folder / name, kind) for name, kind in TYPES.items()})


def mapped(path: Path, kind: type) -> npt.NDArray:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.zeros(0, kind)
    return np.memmap(path, kind, "r")
