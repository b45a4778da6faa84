"""Compose params.yaml and conf/ into reports/config.yaml, the configuration that all other stages read.

    python -m stages.config                       # what `dvc repro config` runs
    python -m stages.config --cfg job             # print the composed configuration
    python -m stages.config train.lora.rank=32    # override a value

Each section is validated against its dataclass; an unknown key is an error that names the nearest valid one.
"""

from pathlib import Path
from typing import Any

from stages.common.core.files import atomic_write
from stages.common.core.stage import COMPOSED_CONFIG, errors_as_message, redirect_multirun, run_with_hydra
from stages.config.compose import plain_values, register_params, validate_config


def write_config(config: Any) -> None:
    """Validate the composed configuration and write its sections in pipeline order."""
    from omegaconf import OmegaConf

    sections = {name: plain_values(section) for name, section in validate_config(config).items()}
    with atomic_write(COMPOSED_CONFIG) as temporary:
        temporary.write_text(
            "# Composed by `python -m stages.config`: edit params.yaml or conf/, not this file.\n"
            + OmegaConf.to_yaml(OmegaConf.create(sections)),
            "utf-8",
        )


if __name__ == "__main__":
    redirect_multirun()
    with errors_as_message("config"):
        register_params(Path("params.yaml"))
    run_with_hydra("config", write_config, Path("conf"), "params")
