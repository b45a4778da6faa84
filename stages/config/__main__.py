"""Compose params.yaml and conf/ into reports/config.yaml, the one file that all other stages read.

    python -m stages.config                       # what `dvc repro config` runs
    python -m stages.config --cfg job             # print the composed configuration
    python -m stages.config train.lora.rank=32    # compose with another value

Every section is validated against its dataclass; an unknown key is an error that names the nearest valid one.
"""

from pathlib import Path
from typing import Any

from stages.common.files import replacing
from stages.common.stage import CONFIG, hydra_main, multirun_is_a_sweep, one_message
from stages.config.compose import store_params, validated


def write_config(config: Any) -> None:
    """Validate the composed configuration and write it, sections in the order of the pipeline."""
    from omegaconf import OmegaConf

    sections = {name: OmegaConf.structured(section) for name, section in validated(config).items()}
    with replacing(CONFIG) as temporary:
        temporary.write_text(
            "# Composed by `python -m stages.config`: edit params.yaml or conf/, not this file.\n"
            + OmegaConf.to_yaml(OmegaConf.create(sections)),
            "utf-8",
        )


if __name__ == "__main__":
    multirun_is_a_sweep()
    with one_message("config"):
        store_params(Path("params.yaml"))
    hydra_main("config", write_config, Path("conf"), "params")
