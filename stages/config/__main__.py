"""Compose params.yaml and conf/ into reports/config.yaml, the one file that all other stages read.

    python -m stages.config                       # what `dvc repro config` runs
    python -m stages.config --cfg job             # print the composed configuration
    python -m stages.config train.lora.rank=32    # compose with another value

Every section is validated against its dataclass; an unknown key is an error that names the nearest valid one.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.files import replacing
from stages.common.sections import SECTIONS
from stages.common.stage import CONFIG, hydra_main, one_message, typed_sections, unknown_key_message


def store_params(path: Path) -> None:
    """Register params.yaml as Hydra's primary config.

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


def write_config(config: Any) -> None:
    """Validate the composed configuration and write it, sections in the order of the pipeline."""
    from omegaconf import OmegaConf

    for section in config:
        if section not in SECTIONS:
            close = difflib.get_close_matches(str(section), SECTIONS, n=1)
            raise UserError(unknown_key_message(str(section), close[0] if close else None))
    typed = typed_sections(config, list(SECTIONS))
    text = OmegaConf.to_yaml(OmegaConf.create({name: OmegaConf.structured(typed[name]) for name in SECTIONS}))
    with replacing(CONFIG) as temporary:
        temporary.write_text(
            f"# Composed by `python -m stages.config`: edit params.yaml or conf/, not this file.\n{text}",
            "utf-8",
        )


if __name__ == "__main__":
    with one_message("config"):
        store_params(Path("params.yaml"))
    hydra_main("config", write_config, Path("conf"), "params")
