"""Find the base model's config.json, and make its modules without weights."""

from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError, one_line
from stages.common.core.paths import BASE_MODEL


def base_folder(base: Any, is_here: bool) -> tuple[Path, str]:
    """Return a folder that holds the base's config.json, and where it is from, in words.

    Args:
        base: the section `base`.
        is_here: whether models/base was made with this section.

    Raises:
        UserError: the model is not here, and the hub does not deliver its config.json.
    """
    if is_here and (BASE_MODEL / "config.json").is_file():
        return BASE_MODEL, str(BASE_MODEL)
    if base.kind == "local" and (Path(base.path) / "config.json").is_file():
        return Path(base.path), base.path
    if base.kind == "hub":
        return hub_folder(base), "config.json from the hub; the model is not here"
    raise UserError(
        f"{BASE_MODEL}: {base.name} is not here. Run `dvc repro base` with this configuration in params.yaml."
    )


def hub_folder(base: Any) -> Path:
    from huggingface_hub import hf_hub_download

    from stages.common.sources.hub import hub_errors

    try:
        with hub_errors(f"config.json of {base.name}", base.revision):
            path = hf_hub_download(
                base.name, "config.json", revision=base.revision, cache_dir=".cache/base/hub"
            )
    except UserError as error:
        raise UserError(f"{error}. Run `dvc repro base` where the hub can be reached.") from None
    return Path(path).parent


def modules_of(folder: Path) -> Any:
    """Return the model that a folder's config.json describes, on the meta device.

    Raises:
        UserError: transformers does not know the model.
    """
    from transformers import AutoConfig

    from stages.common.model.coverage import silence_transformers
    from stages.common.model.shapes import empty_model

    silence_transformers()
    try:
        return empty_model(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}: transformers cannot make the model ({one_line(error, 200)})") from error
