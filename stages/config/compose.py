"""The primary configuration params.yaml, and the schema of the whole; used by config, sweep and the tests."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.files import sha256_code
from stages.common.settings import SECTIONS
from stages.common.stage import typed_sections, unknown_key_message


def store_params(path: Path) -> None:
    """Register params.yaml as Hydra's primary config `params`.

    Not through the search path: that would be the repository's root, and Hydra lists all of it for --help.

    Raises:
        UserError: the file is missing or is no YAML mapping.
    """
    from hydra.core.config_store import ConfigStore

    try:
        node = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run from the repository's root.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(node, dict):
        raise UserError(f"{path} must hold a mapping that begins with `defaults:`")
    ConfigStore.instance().store("params", node)


def validated(config: Any) -> dict[str, Any]:
    """Every section of a composed configuration as its dataclass, in the order of the pipeline.

    Raises:
        UserError: an unknown or missing section, an unknown key, a wrong type or a value out of range.
    """
    for section in config:
        if section not in SECTIONS:
            close = difflib.get_close_matches(str(section), SECTIONS, n=1)
            raise UserError(unknown_key_message(str(section), close[0] if close else None))
    sections = typed_sections(config, list(SECTIONS))
    clean = sections["clean"]
    clean.validation.judge = sha256_code("stages/judge") if clean.validate != "none" else ""
    return sections


def composed(*overrides: str) -> dict[str, Any]:
    """Sections of params.yaml and conf/ with overrides, for a command that is not a stage.

    Raises:
        UserError: as `validated`, or a group's option that is not there.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    store_params(Path("params.yaml"))
    try:
        with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
            return validated(compose("params", overrides=list(overrides)))
    except HydraException as error:
        raise UserError(str(error)) from None
