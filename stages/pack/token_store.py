"""Tokenized documents on disk: flat files in a scratch folder, written front to back, then memory-mapped."""

import mmap
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from stages.pack.documents import TokenizedGroup

COLUMN_TYPES = {
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
PER_DOCUMENT = ("components", "characters", "labelled", "first")


@dataclass
class StoredDocuments:
    """Memory-mapped documents: document i is `starts[i] : starts[i + 1]` of `ids` and `loss`."""

    ids: npt.NDArray[np.int32]
    # 1: the token is trained on
    loss: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    # UTF-8 of the row ids; that of document i is `name_starts[i] : name_starts[i + 1]`
    names: npt.NDArray[np.uint8]
    name_starts: npt.NDArray[np.int64]
    # hash of each document's duplicate component
    components: npt.NDArray[np.uint64]
    characters: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.int64]
    # 1: the document is the first of its row
    first: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def shard(self, first: int, end: int) -> "StoredDocuments":
        """Return documents `first : end` without copying."""
        bounds = slice(first, end + 1)
        return replace(
            self,
            starts=self.starts[bounds],
            name_starts=self.name_starts[bounds],
            **{name: getattr(self, name)[first:end] for name in PER_DOCUMENT},
        )

    def release(self) -> None:
        """Stop counting read pages as this process's memory; they stay in the system's cache."""
        for column in fields(self):
            pages = getattr(getattr(self, column.name), "_mmap", None)
            if pages is not None:
                pages.madvise(mmap.MADV_DONTNEED)


class TokenStore:
    """Writes the documents of row groups, appended in order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.files = {name: (folder / name).open("wb") for name in COLUMN_TYPES}
        self.tokens = self.bytes = self.documents = self.rows = 0
        for name in ("starts", "name_starts"):
            self.files[name].write(np.zeros(1, np.int64).tobytes())

    def __enter__(self) -> "TokenStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.close()

    def append(self, group: TokenizedGroup) -> None:
        for name in ("ids", "loss", "names", *PER_DOCUMENT):
            self.files[name].write(getattr(group, name))
        self.files["starts"].write((self.tokens + np.cumsum(group.lengths, dtype=np.int64)).tobytes())
        name_starts = self.bytes + np.cumsum(group.name_lengths, dtype=np.int64)
        self.files["name_starts"].write(name_starts.tobytes())
        self.tokens += int(group.lengths.sum())
        self.bytes += len(group.names)
        self.documents += len(group.lengths)
        self.rows += int(group.first.sum())

    def read(self) -> StoredDocuments:
        """Close the files and return all documents; nothing can be appended afterwards."""
        self.__exit__(None, None, None)
        return open_documents(self.folder)


def open_documents(folder: Path) -> StoredDocuments:
    """Map the documents that a `TokenStore` wrote to the folder."""
    return StoredDocuments(**{name: map_column(folder / name, kind) for name, kind in COLUMN_TYPES.items()})


def map_column(path: Path, kind: type) -> npt.NDArray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, kind)
    return np.memmap(path, kind, "r")
