"""Whether an adapter on a model can be merged, from names and shapes alone: checked before anything is trained."""

from pathlib import Path

import torch

from stages.common.core.errors import UserError
from stages.common.model.coverage import listed, require_config, silence_transformers
from stages.common.model.weight_files import stored_tensors

MERGED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def refuse_unmergeable(folder: Path, where: str = "") -> None:
    """Check that each weight that merging may change is in the folder's files, under the model's name and writable.

    Args:
        where: what messages call the folder.

    Raises:
        UserError: it is not, or the model stores its weights transposed.
    """
    where = where or str(folder)
    names, stored = linear_weights(folder, where), stored_tensors(folder, where)
    absent = names - stored.keys()
    if absent:
        raise UserError(
            f"{where}: {len(absent)} of the model's {len(names)} linear layers have other names in the weight files: "
            f"{listed(absent)}. Those of models that also read images are mostly such. Choose the text-only base."
        )
    odd = sorted(name for name in names if stored[name].dtype not in MERGED_DTYPES)
    if odd:
        raise UserError(
            f"{where}: {odd[0]} is stored as {stored[odd[0]].dtype}; merge can only write {', '.join(MERGED_DTYPES)}. "
            "Choose a base in 16 or 32 bits."
        )


def linear_weights(folder: Path, where: str = "") -> frozenset[str]:
    """Return the names of the weights that loading quantizes: of all linear layers except the head.

    Raises:
        UserError: there is no model, it cannot be built, has no such layers, or stores their weights transposed.
    """
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers import AutoHfQuantizer

    where = where or str(folder)
    silence_transformers()
    require_config(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, local_files_only=True)
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: the model does not load: {error}") from error
    # the same layers in 4 and in 8 bits
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True), pre_quantized=False)
    quantizer.preprocess_model(model, device_map={"": "cpu"})
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    transposed = [name for name, module in layers.items() if issubclass(module.source_cls, Conv1D)]
    if transposed:
        raise UserError(
            f"{where}: {transposed[0]} stores its weight transposed (Conv1D), which adapters here do not support. "
            "Choose another base."
        )
    if not layers:
        raise UserError(f"{where}: {type(model).__name__} has no linear layer to adapt. Choose another base.")
    return frozenset(f"{name}.weight" for name in layers)
