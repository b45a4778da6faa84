"""Weight files, read and written one tensor at a time: a model of any size is merged in the memory of one weight.

A merged file has the header of its original, byte for byte: 8 bytes of length, a JSON table of names, dtypes, shapes and
places (https://huggingface.co/docs/safetensors), then the tensors' bytes, of which some are others now.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from stages.common.errors import UserError
from stages.common.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
CHUNK = 2**22  # bytes of tensors that are kept, copied at a time
AGAIN = "Run `dvc repro -f -s base`."


@dataclass(frozen=True)
class Entry:
    """A tensor of a file."""

    name: str
    dtype: str  # safetensors' word: BF16, F16, F32, ...
    shape: list[int]
    size: int  # bytes


@dataclass
class Written:
    """What became of a folder of weights: sha256 of the files before and after, and counts of tensors."""

    base: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    tensors_merged: int = 0
    tensors_kept: int = 0


class Tee:
    """Writes to a file, or reads from one, and hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        if self.file.readinto(buffer) != size:  # type: ignore[attr-defined]
            raise UserError(f"{self.file.name}: the file ended while it was read. {AGAIN}")
        self.digest.update(buffer)
        return buffer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)


def weight_files(folder: Path) -> dict[str, list[str] | None]:
    """Names of the weight files that transformers loads, with the tensors that an index expects in each.

    Raises:
        UserError: there are none, or the index names a file that is missing.
    """
    if (folder / SINGLE).is_file():
        return {SINGLE: None}
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: no weights here ({SINGLE} or {INDEX}). `dvc repro base` makes them.")
    try:
        places = dict(read_json(folder / INDEX)["weight_map"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / INDEX}: no weight_map in it. {AGAIN}") from None
    files: dict[str, list[str] | None] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {INDEX} names {name}, and there is no such file. {AGAIN}")
        files[name] = [tensor for tensor, place in places.items() if place == name]
    return files


def read_header(path: Path) -> tuple[bytes, list[Entry]]:
    """The first bytes of a file, up to its tensors, and the tensors in the order of their places.

    Raises:
        UserError: the file is no safetensors file, or cut.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):  # checks the header, and the file's size against it
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: no safetensors file, or cut ({error}). {AGAIN}") from None
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    order = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    return length + header, [
        Entry(name, entries[name]["dtype"], entries[name]["shape"], end - start)
        for name in order
        for start, end in [entries[name]["data_offsets"]]
    ]


def write_merged(
    base: Path,
    folder: Path,
    changed: Collection[str],
    merged: Callable[[str, torch.Tensor], torch.Tensor],
) -> Written:
    """Write a copy of the model folder `base` with some weights replaced; every other byte stays.

    Args:
        folder: made here.
        changed: names of the weights that are replaced.
        merged: gives the new weight (any floating dtype) of a name and the old weight; called once for each name.

    Raises:
        UserError: a weight file is missing or cut, or has no tensor of a name in `changed`, so nothing would carry it.
    """
    files = weight_files(base)
    layouts = {name: read_header(base / name) for name in files}
    check(base, files, {name: entries for name, (_, entries) in layouts.items()}, changed)
    folder.mkdir()
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    written = Written()
    for name, (header, entries) in layouts.items():
        with (base / name).open("rb") as source, (folder / name).open("wb") as target:
            old, new = Tee(source), Tee(target)
            new.write(old.read(len(header)))
            for entry in entries:
                if entry.name in changed:
                    new.write(replaced(entry, old.read(entry.size), merged))
                else:
                    for start in range(0, entry.size, CHUNK):
                        new.write(old.read(min(CHUNK, entry.size - start)))
        written.base[name], written.merged[name] = old.digest.hexdigest(), new.digest.hexdigest()
        there = sum(entry.name in changed for entry in entries)
        written.tensors_merged += there
        written.tensors_kept += len(entries) - there
    return written


def replaced(
    entry: Entry, data: bytearray, merged: Callable[[str, torch.Tensor], torch.Tensor]
) -> memoryview:
    """The bytes that take the place of a tensor's: rounded once, to the dtype that it had.

    Raises:
        UserError: a value of the new weight is not finite: of a row of zeros DoRA makes 0 / 0, float16 ends at 65,504.
    """
    dtype = DTYPES[entry.dtype]
    weight = merged(entry.name, torch.frombuffer(data, dtype=dtype).view(entry.shape)).to(dtype)
    if not weight.isfinite().all():
        raise UserError(
            f"{entry.name}: the merged weight holds a value that is not finite. Nothing was written."
        )
    return weight.cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data


def check(
    base: Path,
    files: dict[str, list[str] | None],
    entries: dict[str, list[Entry]],
    changed: Collection[str],
) -> None:
    """All that can be wrong with the files, before anything is computed."""
    found = {entry.name: entry for listed in entries.values() for entry in listed}
    for name, expected in files.items():
        missing = sorted(set(expected or ()) - {entry.name for entry in entries[name]})
        if missing:
            raise UserError(f"{base}: {INDEX} expects {missing[0]} in {name}, which has it not. {AGAIN}")
    lost = sorted(set(changed) - set(found))
    if lost:
        raise UserError(
            f"{base}: no tensor named {lost[0]} ({len(lost)} missing), which merge would change: the adapter belongs "
            f"to another base, or the files name their tensors otherwise than the model does"
        )
    for name in sorted(changed):
        if found[name].dtype not in DTYPES:
            raise UserError(
                f"{base}: {name} is stored as {found[name].dtype}; merge knows {', '.join(DTYPES)}"
            )
