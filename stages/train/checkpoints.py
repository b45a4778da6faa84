"""Checkpoints: where they are kept, how they are written atomically, and which one a run may resume from."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.core.files import sha256_file, sha256_folder
from stages.common.core.stage import is_disk_full

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

CHECKPOINTS_FOLDER = Path(".cache/train")
INCOMPLETE = "incomplete"  # a checkpoint is written in this folder and renamed out of it
CHECKPOINT_MANIFEST = "manifest.json"  # sha256 of each file of the checkpoint
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
# Settings that change only the order in which gradients are summed. They are left out of a training's key, so that a
# training killed on two GPUs can resume on one. They are in the section `train`, by which DVC decides what to rerun,
# because that order changes the last bits of the adapter.
PROCESS_SETTINGS = ("launcher", "accelerate", "processes")


def training_key(settings: "TrainSettings", packed: Path, base: Path, lock: Path, stages: Path) -> str:
    """Hash what identifies a training: settings (except `PROCESS_SETTINGS`), packs, base, library versions and code.

    Two runs with the same key do the same computation, so one may resume where the other was killed. The code is
    every Python file under stages/train and stages/common.
    """
    code = [path for folder in ("train", "common") for path in (stages / folder).rglob("*.py")]
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
    """Move a finished checkpoint to `place`, so that it is complete there even after a power loss.

    A rename may reach the disk before the data, and older checkpoints are removed next. So all files are synced
    first, and the manifest lets a later run verify them.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != CHECKPOINT_MANIFEST)
    manifest = json.dumps({p.name: sha256_file(p) for p in files}, indent=2)
    (folder / CHECKPOINT_MANIFEST).write_text(manifest + "\n", "utf-8")
    for path in (*files, folder / CHECKPOINT_MANIFEST, folder):
        sync_to_disk(path)
    if place.exists():  # a damaged one, left by an earlier run
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
    """Check that a checkpoint's files match its manifest."""
    try:
        manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text("utf-8"))
        return bool(manifest) and all(sha256_file(folder / n) == digest for n, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint with the most steps; change nothing on disk."""
    return next((path for _, path in reversed(list_checkpoints(folder)) if is_complete(path)), None)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return steps and folder of each checkpoint, complete or not, fewest steps first."""
    found = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return sorted(found)


def remove_other_checkpoints(folder: Path, kept: Path) -> None:
    """Remove all checkpoints except `kept`."""
    for _, path in list_checkpoints(folder):
        if path != kept:
            shutil.rmtree(path)


def is_disk_failure(error: Exception) -> bool:
    """Return whether an error while writing a checkpoint means that the disk is full or fails.

    torch.save raises a RuntimeError then that does not name the reason.
    """
    message = str(error)
    return (
        isinstance(error, OSError)
        or is_disk_full(error)
        or "iostream error" in message
        or "inline_container" in message
    )


def resume_message(folder: Path) -> str:
    """Say in one sentence where the next run starts."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "There is no checkpoint: the next run starts from the beginning."
    return f"The next run resumes after step {checkpoint_step(checkpoint)} ({checkpoint})."


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
