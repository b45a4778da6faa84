"""Read and write weight files one tensor at a time: merging any model takes the memory of one weight.

A merged file keeps the header of its original, byte for byte: 8 bytes of length, a JSON table of names,
dtypes, shapes and offsets (https://huggingface.co/docs/safetensors). Only the bytes of the merged tensors
after it change.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from stages.common.core.errors import UserError
from stages.common.core.files import read_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MERGED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
COPY_BYTES = 2**22  # copied at a time, of tensors that are kept
RERUN_BASE = "Run `dvc repro -f -s base`."


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file, as its header describes it."""

    name: str
    # safetensors' name: BF16, F16, F32, ...
    dtype: str
    shape: list[int]
    # bytes
    size: int


@dataclass
class WrittenWeights:
    """Result of merging a folder of weights: sha256 of each file before and after, and counts of tensors."""

    base: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    tensors_merged: int = 0
    tensors_kept: int = 0


class HashedFile:
    """Reads or writes a file and hashes the bytes that pass."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        if self.file.readinto(buffer) != size:  # type: ignore[attr-defined]
            raise UserError(f"{self.file.name}: the file ended unexpectedly. {RERUN_BASE}")
        self.digest.update(buffer)
        return buffer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)


def list_weight_files(folder: Path) -> dict[str, list[str] | None]:
    """Return the weight files that transformers loads, each with the tensors that the index expects in it.

    Raises:
        UserError: there are none, or the index names a file that is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return {SINGLE_FILE: None}
    if not (folder / INDEX_FILE).is_file():
        raise UserError(
            f"{folder}: no weights in this folder ({SINGLE_FILE} or {INDEX_FILE}). Run `dvc repro base`."
        )
    try:
        file_of = dict(read_json(folder / INDEX_FILE)["weight_map"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / INDEX_FILE}: no weight_map in this index. {RERUN_BASE}") from None
    files: dict[str, list[str] | None] = {}
    for name in sorted(set(file_of.values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {INDEX_FILE} names {name}, but there is no such file. {RERUN_BASE}")
        files[name] = [tensor for tensor, file in file_of.items() if file == name]
    return files


def read_header(path: Path) -> tuple[bytes, list[TensorEntry]]:
    """Return the bytes of a file up to its tensors, and the tensors in the order of their offsets.

    Raises:
        UserError: the file is not a safetensors file, or is cut.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):  # checks the header and the file's size
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a complete safetensors file ({error}). {RERUN_BASE}") from None
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    order = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    return length + header, [
        TensorEntry(name, entries[name]["dtype"], entries[name]["shape"], end - start)
        for name in order
        for start, end in [entries[name]["data_offsets"]]
    ]


def write_merged(
    base: Path,
    folder: Path,
    changed: Collection[str],
    merged_weight: Callable[[str, torch.Tensor], torch.Tensor],
) -> WrittenWeights:
    """Write a copy of the model folder `base` with some weights replaced; every other byte stays.

    Args:
        folder: created here.
        changed: names of the weights to replace.
        merged_weight: returns the new weight (any floating dtype) for a name and the old weight; called once
            per name.

    Raises:
        UserError: a weight file is missing or cut, or no file holds a tensor named in `changed`.
    """
    files = list_weight_files(base)
    layouts = {name: read_header(base / name) for name in files}
    check_tensors(base, files, {name: entries for name, (_, entries) in layouts.items()}, changed)
    folder.mkdir(exist_ok=True)
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    written = WrittenWeights()
    for name, (header, entries) in layouts.items():
        with (base / name).open("rb") as source, (folder / name).open("wb") as target:
            old, new = HashedFile(source), HashedFile(target)
            new.write(old.read(len(header)))
            for entry in entries:
                if entry.name in changed:
                    new.write(merged_bytes(entry, old.read(entry.size), merged_weight))
                else:
                    for start in range(0, entry.size, COPY_BYTES):
                        new.write(old.read(min(COPY_BYTES, entry.size - start)))
        written.base[name], written.merged[name] = old.digest.hexdigest(), new.digest.hexdigest()
        merged_tensors = sum(entry.name in changed for entry in entries)
        written.tensors_merged += merged_tensors
        written.tensors_kept += len(entries) - merged_tensors
    return written


def merged_bytes(
    entry: TensorEntry, data: bytearray, merged_weight: Callable[[str, torch.Tensor], torch.Tensor]
) -> memoryview:
    """Return the bytes that replace a tensor's, rounded once, to its own dtype.

    Raises:
        UserError: a value of the new weight is not finite: DoRA turns a row of zeros into 0 / 0, float16 ends
            at 65,504.
    """
    dtype = MERGED_DTYPES[entry.dtype]
    weight = merged_weight(entry.name, torch.frombuffer(data, dtype=dtype).view(entry.shape)).to(dtype)
    if not weight.isfinite().all():
        raise UserError(
            f"{entry.name}: the merged weight has a value that is not finite. Nothing was written. Look at "
            "the base's weight and at the adapter; run `dvc repro -f -s train` if the adapter is broken."
        )
    return weight.cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data


def check_tensors(
    base: Path,
    files: dict[str, list[str] | None],
    entries: dict[str, list[TensorEntry]],
    changed: Collection[str],
) -> None:
    """Check the files before anything is computed.

    Raises:
        UserError: a tensor is missing, or one to merge has a dtype that merge cannot write.
    """
    tensors = {entry.name: entry for listed in entries.values() for entry in listed}
    for name, expected in files.items():
        missing = sorted(set(expected or ()) - {entry.name for entry in entries[name]})
        if missing:
            raise UserError(
                f"{base}: {INDEX_FILE} expects {missing[0]} in {name}, but it is not there. {RERUN_BASE}"
            )
    absent = sorted(set(changed) - set(tensors))
    if absent:
        raise UserError(
            f"{base}: no tensor named {absent[0]} ({len(absent)} missing), which merge would change. The "
            "adapter belongs to another base, or the files use other tensor names than the model. Run "
            "`dvc repro train`."
        )
    for name in sorted(changed):
        if tensors[name].dtype not in MERGED_DTYPES:
            raise UserError(
                f"{base}: {name} is stored as {tensors[name].dtype}; merge can only write "
                f"{', '.join(MERGED_DTYPES)}"
            )
