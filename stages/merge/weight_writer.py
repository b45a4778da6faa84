"""Write the merged model one tensor at a time: merging any model takes the memory of one weight.

The files are copies of the base's, in which the bytes of merged tensors are replaced; every other byte stays.
"""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from stages.common.core.errors import UserError
from stages.common.model.mergeable import MERGED_DTYPES
from stages.common.model.weight_files import StoredTensor, stored_tensors, weight_files


def write_merged(
    base: Path,
    folder: Path,
    changed: Collection[str],
    merged_weight: Callable[[str, torch.Tensor], torch.Tensor],
) -> int:
    """Write a copy of the model folder `base` with some weights replaced; return how many tensors are kept.

    Args:
        folder: created here.
        changed: names of the weights to replace.
        merged_weight: returns the new weight (any floating dtype) for a name and the old weight; called once
            per name.

    Raises:
        UserError: a weight file is missing or cut, no file holds a tensor named in `changed`, or a new weight is not
            finite.
    """
    tensors, loaded = stored_tensors(base), weight_files(base)
    absent = sorted(set(changed) - tensors.keys())
    if absent:
        raise UserError(
            f"{base}: no tensor named {absent[0]} ({len(absent)} missing), which merge would change. The "
            "adapter belongs to another base. Run `dvc repro train`."
        )
    folder.mkdir(exist_ok=True)
    for path in sorted(base.iterdir()):
        if path in loaded or (path.is_file() and path.suffix != ".safetensors"):
            shutil.copyfile(path, folder / path.name)
    for name in sorted(changed):
        replace_tensor(folder, name, tensors[name], merged_weight)
    return len(tensors) - len(changed)


def replace_tensor(
    folder: Path, name: str, stored: StoredTensor, merged_weight: Callable[[str, torch.Tensor], torch.Tensor]
) -> None:
    """Replace the bytes of one tensor in a copied file, rounded once, to its own dtype.

    Raises:
        UserError: a value of the new weight is not finite: DoRA turns a row of zeros into 0 / 0, float16 ends
            at 65,504.
    """
    dtype = MERGED_DTYPES[stored.dtype]
    with (folder / stored.file.name).open("r+b") as file:
        file.seek(stored.start)
        data = bytearray(file.read(stored.end - stored.start))
        weight = merged_weight(name, torch.frombuffer(data, dtype=dtype).view(stored.shape)).to(dtype)
        if not weight.isfinite().all():
            raise UserError(
                f"{name}: the merged weight has a value that is not finite. Nothing was written. Look at "
                "the base's weight and at the adapter; run `dvc repro -f -s train` if the adapter is broken."
            )
        file.seek(stored.start)
        file.write(weight.cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data)
