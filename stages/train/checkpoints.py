"""Checkpoints: where they are kept, and which of them a run may go on from."""

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.files import sha256_file, sha256_folder

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

SCRATCH = Path(".cache/train")
INCOMPLETE = "incomplete"  # a checkpoint is written in this folder and renamed out of it
NAME = re.compile(r"checkpoint-(\d+)")


def training_key(settings: "TrainSettings", packed: Path, base: Path, lock: Path, stages: Path) -> str:
    """Names one training: a hash of settings, packs, base weights, library versions and code.

    Two runs with the same key do the same computation, so one may go on where the other was killed.
    """
    code = [p for stage in ("train", "common") for p in (stages / stage).glob("*.py")]
    parts = {
        "settings": asdict(settings),
        "packed": sha256_folder(packed),
        "base": sorted((p.name, sha256_file(p)) for p in base.glob("*.safetensors")),
        "config": sha256_file(base / "config.json"),
        "lock": sha256_file(lock) if lock.exists() else "",
        "code": sorted((p.relative_to(stages).as_posix(), sha256_file(p)) for p in code),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps; incomplete ones are removed."""
    shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)
    found = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := NAME.fullmatch(p.name))]
    return max(found)[1] if found else None


def keep_only(folder: Path, kept: Path) -> None:
    """Remove all checkpoints but one."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)
