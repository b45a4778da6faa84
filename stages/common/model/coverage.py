"""Check that the tensors of a model's files are those of the model: transformers fills what is missing at random."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError

NAMED = 5  # tensors named in a message, of each kind

# Arguments of `from_pretrained` with which it returns (model, info), and lists mismatched shapes instead of raising
LOADING_INFO: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}


def silence_transformers() -> None:
    """Switch off transformers' progress bars and advice, all of it known for this project's settings."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def require_config(folder: Path) -> None:
    """Raise UserError if the folder holds no model: transformers would look for its name on the hub."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing). Run `dvc repro base`.")


def refuse_uncovered(where: str, info: Mapping[str, Any]) -> None:
    """Raise UserError naming the tensors that files and model do not share, from what `from_pretrained` reports.

    transformers has already left out tied weights, tensors it renames or joins itself, and those that a model class
    declares as optional (`_keys_to_ignore_on_load_missing` and `_unexpected`).
    """
    mismatched = [
        f"{name} ({list(of_file)} in the files, {list(of_model)} in the model)"
        for name, of_file, of_model in info["mismatched_keys"]
    ]
    kinds = (
        ("missing from the files", info["missing_keys"]),
        ("unknown to the model", info["unexpected_keys"]),
        ("of another shape", mismatched),
    )
    problems = [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds if names]
    if problems:
        raise UserError(
            f"{where}: the weight files do not fit the model that config.json describes. Tensors "
            f"{'; '.join(problems)}. A missing tensor would be filled with random numbers. Use a base whose files are "
            "complete, with the config.json that belongs to them."
        )


def listed(names: Any) -> str:
    """Return the first names in order, and how many follow."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more
