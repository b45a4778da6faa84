"""Compose params.yaml and conf/ with Hydra, and validate every section against its schema."""

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.config_sections import load_sections, unknown_key_message
from stages.common.core.errors import UserError
from stages.common.core.files import sha256_code
from stages.common.core.settings import SECTIONS

# What draws and judges, below stages/: sample does not depend on it while it is off
DRAWING_CODE = [f"stages/{name}" for name in ("clean", "generation", "judge", "common")]


def register_params(path: Path) -> None:
    """Register params.yaml as Hydra's primary config `params`.

    A search path would have to be the repository's root, all of which Hydra then lists in --help.

    Raises:
        UserError: the file is missing or is not a YAML mapping.
    """
    from hydra.core.config_store import ConfigStore

    try:
        node = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run from the repository's root.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(node, dict):
        raise UserError(
            f"{path}: expected a mapping that begins with `defaults:`, found {type(node).__name__}"
        )
    ConfigStore.instance().store("params", node)


def validate_config(config: Any) -> dict[str, Any]:
    """Return every section of a composed configuration as its dataclass, in pipeline order.

    Raises:
        UserError: an unknown or missing section, an unknown key, a wrong type or a value out of range.
    """
    for section in config:
        if section not in SECTIONS:
            close = difflib.get_close_matches(str(section), SECTIONS, n=1)
            raise UserError(unknown_key_message(str(section), close[0] if close else None))
    sections = load_sections(config, list(SECTIONS))
    clean = sections["clean"]
    clean.validation.judge = sha256_code("stages/judge") if clean.validate != "none" else ""
    sample = sections["sample"]
    sample.code = " ".join(map(sha256_code, DRAWING_CODE)) if sample.samples else ""
    return sections


def plain_values(value: Any) -> Any:
    """Return a section as plain values; an entry of a list or mapping (a source) without its default fields.

    A source has twenty fields, most of which only one kind has. DVC and every stage would read them all.
    """
    if is_dataclass(value):
        return {field.name: plain_values(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: set_values(entry) for key, entry in value.items()}
    return [set_values(entry) for entry in value] if isinstance(value, list) else value


def set_values(entry: Any) -> Any:
    """Return an entry's values that differ from its class's defaults."""
    values = plain_values(entry)
    if not is_dataclass(entry) or isinstance(entry, type):
        return values
    defaults = plain_values(type(entry)())
    return {key: value for key, value in values.items() if value != defaults[key]}


def compose_config(*overrides: str, params: Path = Path("params.yaml")) -> dict[str, Any]:
    """Compose and validate `params` and conf/ with overrides, for a command that is not a stage.

    Raises:
        UserError: as `validate_config`, or a group has no such option.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    register_params(params)
    try:
        with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
            return validate_config(compose("params", overrides=list(overrides)))
    except HydraException as error:
        raise UserError(str(error)) from None
