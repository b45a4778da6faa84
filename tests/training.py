"""A folder that the train and merge stages run in: a tiny model, packs made by hand, a configuration."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.common.stage import Settings
from stages.pack.documents import Document
from stages.pack.files import write_packs
from stages.track.settings import TrackSettings
from stages.train.settings import Lora, TrainSettings

EOS = 0
TRAIN = TrainSettings(
    lora=Lora(rank=4, alpha=8), learning_rate=2e-2, epochs=2.0, micro_batch=1, save_every=3, threads=1
)
TRACK = TrackSettings(live=False)


def documents(count: int, seed: int = 0) -> list[Document]:
    """Documents of 6 to 30 tokens with ragged prompts, EOS last; they count around a circle of 20 tokens."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        length = rng.randint(6, 30)
        start = rng.randrange(20)
        ids = [1 + (start + i) % 20 for i in range(length - 1)] + [EOS]
        made.append(
            Document(f"row{seed}-{number}", f"row{seed}-{number}", ids, rng.randint(0, length // 2), 0)
        )
    return made


def write_packed(folder: Path, train: int = 24, validation: int = 6) -> None:
    """data/packed with three documents a pack."""
    folder.mkdir(parents=True)
    for name, made in (("train", documents(train, 1)), ("validation", documents(validation, 2))):
        write_packs(folder / f"{name}.arrow", made, [range(i, i + 3) for i in range(0, len(made), 3)])


def workplace(root: Path, model: Path) -> Path:
    """A new folder `root` with models/base and data/packed."""
    shutil.copytree(model, root / "models/base")
    write_packed(root / "data/packed")
    (root / "requirements.lock").write_text("torch==0\n", "utf-8")
    return root


def train_settings(**changes: Any) -> Settings:
    """Settings of the train stage; names of LoRA's fields change those."""
    lora = {k: changes.pop(k) for k in list(changes) if k in Lora.__dataclass_fields__}
    return Settings(
        "train", {"train": replace(TRAIN, lora=replace(TRAIN.lora, **lora), **changes), "track": TRACK}
    )
