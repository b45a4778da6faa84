"""The config.json of the base model, without its weights: of the folder that is here, of a known model, or from the hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.plan.known import MODELS

MODEL = Path("models/base")


def model_config(base: Any, is_here: bool) -> tuple[dict[str, Any], str]:
    """config.json of the base, and a word on where it is from.

    Args:
        base: the section `base`.
        is_here: whether models/base was made with this section.

    Raises:
        UserError: the model is not here, not known, and its config.json does not come from the hub.
    """
    if is_here and (MODEL / "config.json").is_file():
        return read_json(MODEL / "config.json"), "models/base"
    if base.kind == "local":
        return read_json(Path(base.path) / "config.json"), base.path
    if base.kind == "hub":
        if base.name in MODELS:
            return MODELS[base.name], "shapes known to the plan, the model is not here"
        return from_hub(base), "config.json from the hub, the model is not here"
    raise UserError(
        f"{MODEL}: {base.name} is not here. Run `dvc repro base` with this configuration in params.yaml."
    )


def from_hub(base: Any) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    from stages.common.sources.hub import hub_errors

    try:
        with hub_errors(f"config.json of {base.name}", base.revision):
            path = hf_hub_download(
                base.name, "config.json", revision=base.revision, cache_dir=".cache/base/hub"
            )
    except UserError as error:
        raise UserError(
            f"{error}. Run `dvc repro base` where the hub can be reached, or add the model's shapes to stages/plan/known.py."
        ) from None
    found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return found


def context_of(config: Mapping[str, Any]) -> int:
    """The model's context in tokens; 0: config.json does not say."""
    from stages.pack.model_limits import CONTEXT_KEYS

    sections = [config, config.get("text_config") or {}]
    return next((section[key] for section in sections for key in CONTEXT_KEYS if section.get(key)), 0)
