"""Checkpoints: where they are kept, how one comes to be whole or not at all, and which of them a run may go on from."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.files import sha256_file, sha256_folder
from stages.common.stage import disk_is_full

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

CHECKPOINTS_FOLDER = Path(".cache/train")
INCOMPLETE = "incomplete"  # a checkpoint is written in this folder and renamed out of it
CHECKPOINT_MANIFEST = "manifest.json"  # sha256 of each of its files
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
# settings that change nothing but the order in which gradients are summed. A training that was killed on two GPUs may
# go on on one, so they are not part of its key; they are in the section `train`, by which DVC decides what to rerun,
# because that order changes the last bits of the adapter
PROCESS_SETTINGS = ("launcher", "accelerate", "processes")


def training_key(settings: "TrainSettings", packed: Path, base: Path, lock: Path, stages: Path) -> str:
    """Names one training: a hash of settings (but `PLACE`), packs, base weights, library versions and code.

    Two runs with the same key do the same computation, so one may go on where the other was killed.
    """
    code = [p for stage in ("train", "common") for p in (stages / stage).rglob("*.py")]
    parts = {
        "settings": {name: value for name, value in asdict(settings).items() if name not in PROCESS_SETTINGS},
        "packed": sha256_folder(packed),
        "base": sorted((p.name, sha256_file(p)) for p in base.glob("*.safetensors")),
        "config": sha256_file(base / "config.json"),
        "lock": sha256_file(lock) if lock.exists() else "",
        "code": sorted((p.relative_to(stages).as_posix(), sha256_file(p)) for p in code),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def publish_checkpoint(folder: Path, place: Path) -> None:
    """Move a checkpoint to its place, so that it is whole there even after a power loss.

    A rename may reach the disk before what was written, and older checkpoints are removed next: so everything is
    forced to the disk first, and the manifest tells whether it came there.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != CHECKPOINT_MANIFEST)
    manifest = json.dumps({p.name: sha256_file(p) for p in files}, indent=2)
    (folder / CHECKPOINT_MANIFEST).write_text(manifest + "\n", "utf-8")
    for path in (*files, folder / CHECKPOINT_MANIFEST, folder):
        sync_to_disk(path)
    if place.exists():  # of an earlier run that could not be used
        shutil.rmtree(place)
    os.replace(folder, place)
    sync_to_disk(place.parent)


def sync_to_disk(path: Path) -> None:
    """Force a file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint's files are those that were written."""
    try:
        manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text("utf-8"))
        return bool(manifest) and all(sha256_file(folder / n) == digest for n, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps that is whole; changes nothing on the disk."""
    return next((path for _, path in reversed(list_checkpoints(folder)) if is_complete(path)), None)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folder of each checkpoint, whole or not, fewest steps first."""
    found = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return sorted(found)


def remove_other_checkpoints(folder: Path, kept: Path) -> None:
    """Remove all checkpoints but one."""
    for _, path in list_checkpoints(folder):
        if path != kept:
            shutil.rmtree(path)


def is_disk_failure(error: Exception) -> bool:
    """Whether an error while a checkpoint is written means that the disk takes no more.

    torch.save says so with a RuntimeError that does not name the reason.
    """
    told = str(error)
    return (
        isinstance(error, OSError)
        or disk_is_full(error)
        or "iostream error" in told
        or "inline_container" in told
    )


def resume_message(folder: Path) -> str:
    """Where the next run starts, in words."""
    found = last_checkpoint(folder)
    if found is None:
        return "There is no checkpoint: the next run starts from the beginning."
    return f"The next run goes on after step {checkpoint_step(found)} ({found})."


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
