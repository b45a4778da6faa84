"""What the weight files of a model folder hold, by their headers: 8 bytes of length, a JSON table, then the tensors.

https://huggingface.co/docs/safetensors
"""

import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.errors import UserError
from stages.common.core.files import read_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file."""

    file: Path
    # safetensors' name: BF16, F16, F32, ...
    dtype: str
    shape: list[int]
    # bytes from the beginning of the file
    start: int
    end: int


def weight_files(folder: Path, where: str = "") -> list[Path]:
    """Return the weight files that transformers loads: one, or those of the index.

    Args:
        where: what messages call the folder.

    Raises:
        UserError: there are none, the index is no index, or it names a file that is missing.
    """
    where = where or str(folder)
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        raise UserError(
            f"{where}: no weights in this folder ({SINGLE_FILE} or {INDEX_FILE}). Run `dvc repro base`."
        )
    try:
        names = sorted(set(read_json(folder / INDEX_FILE)["weight_map"].values()))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{where}: {INDEX_FILE} has no weight_map. Replace it by the model's own.") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{where}: {INDEX_FILE} names {', '.join(missing)}, but there is no such file.")
    return [folder / name for name in names]


def stored_tensors(folder: Path, where: str = "") -> dict[str, StoredTensor]:
    """Return the tensors of a model folder by name.

    Raises:
        UserError: as `weight_files`, or a file is not a complete safetensors file.
    """
    return {
        name: tensor
        for file in weight_files(folder, where)
        for name, tensor in tensors_of_file(file, where or str(folder)).items()
    }


def tensors_of_file(file: Path, where: str) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):  # checks the header and the file's size
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{where}: {file.name} is not a complete safetensors file ({error}). Fetch it again."
        ) from None
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entries = json.loads(opened.read(length))
    entries.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file, entry["dtype"], entry["shape"], *(8 + length + at for at in entry["data_offsets"])
        )
        for name, entry in entries.items()
    }
