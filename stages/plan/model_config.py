"""Load the base model's config.json without its weights: from models/base, known models, or the hub."""

import json
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_json
from stages.common.core.paths import BASE_MODEL
from stages.plan.known import KNOWN_CONFIGS


def load_base_config(base: Any, is_here: bool) -> tuple[dict[str, Any], str]:
    """Return config.json of the base, and where it is from, in words.

    Args:
        base: the section `base`.
        is_here: whether models/base was made with this section.

    Raises:
        UserError: the model is not here and not known, and the hub does not deliver its config.json.
    """
    if is_here and (BASE_MODEL / "config.json").is_file():
        return read_json(BASE_MODEL / "config.json"), str(BASE_MODEL)
    if base.kind == "local":
        return read_json(Path(base.path) / "config.json"), base.path
    if base.kind == "hub":
        if base.name in KNOWN_CONFIGS:
            return KNOWN_CONFIGS[base.name], "known shapes; the model is not here"
        return config_from_hub(base), "config.json from the hub; the model is not here"
    raise UserError(
        f"{BASE_MODEL}: {base.name} is not here. Run `dvc repro base` with this configuration in params.yaml."
    )


def config_from_hub(base: Any) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    from stages.common.sources.hub import hub_errors

    try:
        with hub_errors(f"config.json of {base.name}", base.revision):
            path = hf_hub_download(
                base.name, "config.json", revision=base.revision, cache_dir=".cache/base/hub"
            )
    except UserError as error:
        raise UserError(
            f"{error}. Run `dvc repro base` where the hub can be reached, or add the model's shapes to "
            "stages/plan/known.py."
        ) from None
    found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return found
