"""Checkpoints: where they are kept, how they are written atomically, and which one a run may resume from."""

import ast
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.core.files import sha256_file, sha256_folder, write_json
from stages.common.core.stage import is_disk_full
from stages.train.warm_start import start_hashes

if TYPE_CHECKING:
    from stages.train.settings import TrainSettings

CHECKPOINTS_FOLDER = Path(".cache/train")
TRAINING_FILE = "training.json"  # beside the checkpoints: what their key is the hash of
INCOMPLETE = "incomplete"  # a checkpoint is written in this folder and renamed out of it
CHECKPOINT_MANIFEST = "manifest.json"  # sha256 of each file of the checkpoint
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
# Settings that are left out of a training's key: processes, threads and recomputed activations change at most the order
# in which numbers are added, so that a training killed on two GPUs can resume on one, or with less memory; the others
# change only what is written on the way
NEUTRAL_SETTINGS = (
    "launcher",
    "accelerate",
    "processes",
    "threads",
    "gradient_checkpointing",
    "save_every",
    "log_every",
    "start_from",  # its hashes count, not its path
)
# Left out where they are at their default, which is what trainings did before they existed
LATER_SETTINGS = ("source_weights",)
LIBRARIES = ("accelerate", "bitsandbytes", "peft", "torch", "transformers")
PARTS = {  # of `identify_training`, besides settings: what a user reads, and how it becomes the same again
    "packed": "other packs (data/packed)",
    "base": "another base (models/base)",
    "start": "another adapter to start from (train.start_from)",
    "libraries": "other library versions",
    "code": "other code",
}


def identify_training(
    settings: "TrainSettings", packed: Path, base: Path, stages: Path
) -> dict[str, dict[str, Any]]:
    """Return what changes a training's result: settings by their keys, and hashes of packs, base and code.

    Two runs for which this is the same do the same computation, so one may resume where the other was killed.
    """
    weights = [base / "config.json", *base.glob("*.safetensors")]
    start = start_hashes(settings)
    return {
        **({"start": start} if start else {}),
        "settings": {f"train.{name}": value for name, value in result_settings(settings).items()},
        "packed": {"sha256": sha256_folder(packed)},
        "base": {path.name: sha256_file(path) for path in weights},
        "libraries": {name: version(name) for name in LIBRARIES},
        "code": imported_code(stages),
    }


def training_key(identity: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def result_settings(settings: "TrainSettings") -> dict[str, Any]:
    """Return the settings that change what is trained, by key.

    Without random draws in micro batches, only the packs of a step count, not how they are cut.
    """
    values = {name: value for name, value in asdict(settings).items() if name not in NEUTRAL_SETTINGS}
    values = {name: value for name, value in values.items() if value or name not in LATER_SETTINGS}
    values |= {f"lora.{name}": value for name, value in values.pop("lora").items()}
    if not settings.keep_best and not settings.early_stopping_patience:
        del values["eval_every"], values["early_stopping_min_delta"]
    if not settings.lora.dropout and not settings.neftune_alpha:
        values["micro_batch x accumulation"] = values.pop("micro_batch") * values.pop("accumulation")
    return values


def imported_code(stages: Path) -> dict[str, str]:
    """Return a hash of each file of stages/train and of all that it imports, by name; comments and layout left out."""
    waiting, found = sorted((stages / "train").glob("*.py")), {}
    while waiting:
        path = waiting.pop()
        name = path.relative_to(stages).as_posix()
        if name in found or not path.is_file():
            continue
        tree = ast.parse(path.read_text("utf-8"))
        found[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
                waiting.append(stages.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py"))
    return found


def describe_others(identity: dict[str, dict[str, Any]], folder: Path = CHECKPOINTS_FOLDER) -> list[str]:
    """Say of each checkpoint of another training what differs, and how to use it."""
    own = folder / training_key(identity)
    messages = []
    for other in sorted(p for p in folder.glob("*") if p != own):
        checkpoint = last_checkpoint(other)
        if checkpoint is not None:
            how = how_to_use(identity, other, own)
            messages.append(
                f"{checkpoint} is of another training, {how} It is removed when this training has ended."
            )
    return messages


def how_to_use(identity: dict[str, dict[str, Any]], other: Path, own: Path) -> str:
    """Say what differs between a training and that of the folder `other`, and how its checkpoint can be used."""
    move = f"stop this training, and `rm -rf {own} && mv {other} {own}`."
    try:
        theirs = json.loads((other / TRAINING_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return f"of which nothing is known. To resume it with what is configured now, {move}"
    ours, settings = identity["settings"], theirs.get("settings", {})
    changed = [f"{key}={value}" for key, value in sorted(settings.items()) if ours.get(key) != value]
    changed += [f"without {key}" for key in sorted(set(ours) - set(settings))]
    parts = [name for name in PARTS if theirs.get(name) != identity.get(name)]
    text = "with " + ", ".join([*changed, *(PARTS[name] for name in parts)])
    if not changed and not {"packed", "base", "start"} & set(parts):
        return f"{text}. To resume it with those of now, {move}"
    return f"{text}. To resume it, stop this training and bring these back."


def remember_training(identity: dict[str, dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TRAINING_FILE, identity)


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
