"""A folder in which the train and merge stages run: a tiny model, handmade packs, settings."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.common.core.stage import Settings
from stages.pack.pack_writer import write_packs as write_packing
from stages.pack.packing import Packing
from stages.pack.token_store import StoredDocuments
from stages.track.settings import TrackSettings
from stages.train.settings import Lora, TrainSettings

EOS = 0
TRAIN = TrainSettings(
    lora=Lora(rank=4, alpha=8), learning_rate=2e-2, epochs=2.0, micro_batch=1, save_every=3, threads=1
)
TRACK = TrackSettings(live=False, peak_seconds=0)


def documents(count: int, seed: int = 0) -> StoredDocuments:
    """Make documents of 6 to 30 tokens that count around a circle of 20, with prompts of any length and EOS last."""
    rng = random.Random(seed)
    tokens: list[int] = []
    starts = [0]
    for _ in range(count):
        length = rng.randint(6, 30)
        start = rng.randrange(20)
        prompt = max(1, rng.randint(0, length // 2))
        ids = [*(1 + (start + i) % 20 for i in range(length - 1)), EOS]
        tokens += [~i for i in ids[:prompt]] + ids[prompt:]
        starts.append(len(tokens))
    none = np.zeros(count, np.int64)
    return StoredDocuments(
        tokens=np.array(tokens, np.int32),
        starts=np.array(starts),
        row_ids=pa.array([f"row{seed}-{number}" for number in range(count)]),
        components=none.astype(np.uint64),
        characters=none,
        labelled=none,
        first=none.astype(bool),
        validated=none.astype(bool),
    )


def write_packs(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` documents, three per pack."""
    packing = Packing(np.arange(count), np.array([*range(0, count, 3), count]))
    write_packing(path, documents(count, seed), packing)


def write_packed(folder: Path, train: int = 24, validation: int = 6) -> None:
    """Write data/packed with three documents per pack."""
    folder.mkdir(parents=True)
    for name, count, seed in (("train", train, 1), ("validation", validation, 2)):
        write_packs(folder / f"{name}.arrow", count, seed)


def workplace(root: Path, model: Path) -> Path:
    """Make the folder `root` with models/base and data/packed."""
    shutil.copytree(model, root / "models/base")
    write_packed(root / "data/packed")
    (root / "requirements.lock").write_text("torch==0\n", "utf-8")
    return root


def train_settings(**changes: Any) -> Settings:
    """Return settings of the train stage; changes with the names of LoRA's fields apply to these."""
    lora = {k: changes.pop(k) for k in list(changes) if k in Lora.__dataclass_fields__}
    return Settings(
        "train", {"train": replace(TRAIN, lora=replace(TRAIN.lora, **lora), **changes), "track": TRACK}
    )
