"""Three places a base model comes from; each writes a plain Hugging Face folder to `target`."""

import errno
import os
import shutil
import sys
from pathlib import Path

from stages.common.errors import UserError
from stages.common.sources.hub import hub_errors

# Never *.py: a model whose repository brings code is loaded by transformers' own classes or not at all.
PLAIN = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
INDEXES = {
    "*.safetensors": "model.safetensors.index.json",
    "pytorch_model*.bin": "pytorch_model.bin.index.json",
}


def from_gguf(gguf: Path, target: Path) -> None:
    """Unpack a GGUF file: weights to bfloat16 safetensors, its configuration and tokenizer beside them.

    Raises:
        UserError: transformers cannot read the file.
    """
    quiet()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        # dequantize: without it transformers keeps the packed blocks, which it then refuses to save
        dequantize = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            **place, dtype=torch.float32, quantization_config=dequantize
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{gguf.name}: transformers cannot read it as GGUF ({one_line(error)})") from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    save(model, tokenizer, target)


def from_hub(name: str, revision: str, cache: Path, target: Path) -> None:
    """Download a model repository at a commit; safetensors where it has them, else its PyTorch weights, converted.

    Raises:
        UserError: no network, no such repository or commit, or no weights in it.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub_errors(f"the model {name}", revision):
        # model_info, not list_repo_files: without a network the latter tries again for half a minute
        siblings = HfApi().model_info(name, revision=revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        snapshot = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache / "hub",
            allow_patterns=[*PLAIN, wanted_weights(names, name)],
            ignore_patterns=["*/*"],
        )
    copy_folder(Path(snapshot), target)


def from_local(folder: Path, target: Path) -> None:
    """Copy a model's folder.

    Raises:
        UserError: the folder is missing or holds no weights.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (base.path)")
    copy_folder(folder, target)


def copy_folder(folder: Path, target: Path) -> None:
    """Copy configuration, tokenizer and weights of a folder; PyTorch weights are converted to safetensors."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = wanted_weights(names, str(folder))
    if weights == WEIGHTS[0]:
        for path in sorted({p for pattern in (*PLAIN, weights) for p in folder.glob(pattern)}):
            if path.name != INDEXES[WEIGHTS[1]]:
                shutil.copyfile(path, target / path.name)
        return
    quiet()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    save(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), target)


def wanted_weights(names: list[str], where: str) -> str:
    """The pattern of weight files to take: safetensors where there are any.

    Raises:
        UserError: there are no weights at all.
    """
    for pattern in WEIGHTS:
        if any(Path(name).match(pattern) and "/" not in name for name in names):
            return pattern
    raise UserError(f"{where}: no weights ({' or '.join(WEIGHTS)}) among its {len(names)} files")


def save(model, tokenizer, target: Path) -> None:  # type: ignore[no-untyped-def]
    """Write model and tokenizer in bfloat16, without what tells where they came from: same input, same bytes."""
    import torch
    from safetensors import SafetensorError

    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    try:
        model.save_pretrained(target, max_shard_size="100GB")
    except SafetensorError as error:  # it wraps the system's error in its own
        if "No space left" in str(error) or "StorageFull" in str(error):
            raise OSError(errno.ENOSPC, "no space left", str(target)) from None
        raise
    tokenizer.save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)  # safetensors writes files that nobody else may read


def quiet() -> None:
    """No progress bars in logs. Before the first import of tqdm, which reads its switch then."""
    if sys.stderr.isatty():
        return
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
