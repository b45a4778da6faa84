"""Unpack, download or copy a base model; each function writes a plain Hugging Face folder to `target`."""

import errno
import shutil
from pathlib import Path

from stages.common.core.errors import UserError, one_line
from stages.common.core.files import read_json
from stages.common.model.coverage import LOADING_INFO, refuse_uncovered, silence_transformers
from stages.common.model.weight_files import INDEX_FILE, SINGLE_FILE
from stages.common.sources.hub import hub_errors

# Never *.py: if a repository has model code of its own, only transformers' own classes may load the model.
CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
PYTORCH_FILE = "pytorch_model.bin"
# In order of preference; each is one file, or the shards of its index. Others, such as consolidated.safetensors, hold
# the same weights once more for another program
WEIGHT_FILES = ((SINGLE_FILE, INDEX_FILE), (PYTORCH_FILE, f"{PYTORCH_FILE}.index.json"))


def unpack_gguf(gguf: Path, target: Path) -> None:
    """Unpack a GGUF file into bfloat16 safetensors, configuration and tokenizer.

    Raises:
        UserError: transformers cannot read the file.
    """
    silence_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    arguments = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
        # Without dequantize transformers keeps the packed blocks, which it then refuses to save.
        dequantize = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            **arguments, dtype=torch.float32, quantization_config=dequantize
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{gguf.name}: transformers cannot load it as GGUF ({one_line(error, 300)})"
        ) from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    save_model(model, tokenizer, target)


def download_model(name: str, revision: str, cache: Path, target: Path) -> None:
    """Download a model repository at a commit: its safetensors, or else PyTorch weights, which it converts.

    Raises:
        UserError: no network, no such repository or commit, or no weights in it.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub_errors(f"the model {name}", revision):
        # Not list_repo_files, which retries for half a minute without a network.
        siblings = HfApi().model_info(name, revision=revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        # twice: the index tells which weights there are
        patterns = list(CONFIG_PATTERNS)
        for _ in range(2):
            snapshot = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache / "hub",
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
            )
            patterns = [*CONFIG_PATTERNS, *weight_names(names, Path(snapshot), name)]
    copy_model_files(Path(snapshot), target)


def copy_local_model(folder: Path, target: Path) -> None:
    """Copy a model folder.

    Raises:
        UserError: the folder is missing or has no weights.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Set base.path to the model's folder.")
    copy_model_files(folder, target)


def copy_model_files(folder: Path, target: Path) -> None:
    """Copy a folder's configuration, tokenizer and weights; convert PyTorch weights to safetensors."""
    weights = weight_names([path.name for path in folder.iterdir()], folder, str(folder))
    if not weights[0].endswith(".bin"):
        wanted = [*CONFIG_PATTERNS, *weights]
        for path in sorted({path for pattern in wanted for path in folder.glob(pattern)}):
            if path.name != f"{PYTORCH_FILE}.index.json":
                shutil.copyfile(path, target / path.name)
        return
    silence_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True, **LOADING_INFO
    )
    refuse_uncovered(str(folder), info)
    save_model(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), target)


def weight_names(names: list[str], folder: Path, where: str) -> list[str]:
    """Return the weight files to use: one, or those of an index; safetensors if there are any, else PyTorch's.

    Args:
        names: of all files, of which `folder` has the indexes at least.

    Raises:
        UserError: there are no weights.
    """
    for single, index in WEIGHT_FILES:
        if single in names:
            return [single]
        if index in names:
            return sorted(set(read_json(folder / index)["weight_map"].values()))
    wanted = " or ".join(name for pair in WEIGHT_FILES for name in pair)
    raise UserError(f"{where}: none of its {len(names)} files holds weights ({wanted})")


def save_model(model, tokenizer, target: Path) -> None:  # type: ignore[no-untyped-def]
    """Write model and tokenizer in bfloat16: the same input gives the same bytes."""
    import torch
    from safetensors import SafetensorError

    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    try:
        model.save_pretrained(target, max_shard_size="100GB")
    except SafetensorError as error:  # wraps the operating system's error
        if "No space left" in str(error) or "StorageFull" in str(error):
            raise OSError(errno.ENOSPC, "no space left", str(target)) from None
        raise
    tokenizer.save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read
