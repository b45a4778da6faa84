"""Which checkpoint a training may resume from: what its key holds, what is said of others, what becomes of them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.train.__main__ import main
from stages.train.checkpoints import (
    CHECKPOINTS_FOLDER,
    describe_others,
    identify_training,
    imported_code,
    last_checkpoint,
    publish_checkpoint,
    remember_training,
    training_key,
)
from stages.train.settings import Lora, TrainSettings
from tests.helpers.tiny_project import REPOSITORY
from tests.helpers.train_workplace import TRAIN, train_settings, workplace

STAGES = REPOSITORY / "stages"


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return workplace(tmp_path, tiny_model)


def identity(train: TrainSettings = TRAIN, stages: Path = STAGES, **changes: Any) -> dict[str, Any]:
    return identify_training(replace(train, **changes), Path("data/packed"), Path("models/base"), stages)


def key(train: TrainSettings = TRAIN, **changes: Any) -> str:
    return training_key(identity(train, **changes))


def test_only_settings_that_change_the_result_make_another_key(place: Path) -> None:
    assert key() == key(launcher="accelerate", processes=2, accelerate="fsdp")
    assert key() == key(save_every=7, log_every=5, threads=3, eval_every=9, gradient_checkpointing=True)
    assert key(micro_batch=4) == key(micro_batch=2, accumulation=2), "the same packs in each step"
    for changes in ({"accumulation": 2}, {"seed": 1}, {"eval_tokens": 9}, {"lora": Lora(rank=8)}):
        assert key() != key(**changes)
    assert key(keep_best=True, eval_every=2) != key(keep_best=True, eval_every=3)
    random = replace(TRAIN, neftune_alpha=5.0)
    assert key(random, micro_batch=4) != key(random, micro_batch=2, accumulation=2), "other random draws"


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("train/trainer.py", "X = 1", True),
        ("common/model/attention/dense.py", "X = 1", True),
        ("common/model/loss.py", "# a comment, and a blank line\n\n", False),
        ("common/text/prompt.py", "X = 1", False),  # training does not import it
    ],
)
def test_only_code_that_training_imports_makes_another_key(
    file: str, text: str, counts: bool, tmp_path: Path
) -> None:
    for folder in ("train", "common"):
        shutil.copytree(STAGES / folder, tmp_path / "stages" / folder)
    before = imported_code(tmp_path / "stages")
    with (tmp_path / "stages" / file).open("a", encoding="utf-8") as opened:
        opened.write(text)
    assert (imported_code(tmp_path / "stages") != before) == counts


def leave_checkpoint(other: dict[str, Any]) -> Path:
    """Write what a killed training of this identity leaves; return its folder."""
    folder = CHECKPOINTS_FOLDER / training_key(other)
    remember_training(other, folder)
    (folder / "incomplete").mkdir()
    (folder / "incomplete/adapter").write_text("weights", "utf-8")
    publish_checkpoint(folder / "incomplete", folder / "checkpoint-40")
    return folder


def test_another_training_s_checkpoint_is_mentioned_with_the_way_to_use_it(place: Path) -> None:
    now = identity()
    own = CHECKPOINTS_FOLDER / training_key(now)
    assert describe_others(now) == []
    leave_checkpoint(now)
    assert describe_others(now) == [], "its own is resumed, not mentioned"

    folder = leave_checkpoint(identity(learning_rate=0.5, lora=Lora(rank=8)))
    (message,) = describe_others(now)
    assert f"{folder}/checkpoint-40" in message
    assert "with train.learning_rate=0.5, train.lora.alpha=32, train.lora.rank=8. To resume it" in message
    shutil.rmtree(folder)

    folder = leave_checkpoint(now | {"code": {}, "libraries": {}})
    (message,) = describe_others(now)
    assert f"other library versions, other code. To resume it with those of now, stop this training, and `rm -rf {own} && mv {folder} {own}`" in message  # fmt: skip


def test_a_checkpoint_of_other_neutral_settings_is_resumed_and_orphans_are_removed(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after step 3; then other processors, other rows of the log, other sizes of micro batches, other saves."""
    from stages.train import trainer

    orphan = leave_checkpoint(identity(seed=3))
    monkeypatch.setattr(trainer.PackTrainer, "save_checkpoint", kill_after_save(3))
    with pytest.raises(KeyboardInterrupt):
        main(train_settings(max_steps=6, micro_batch=2, save_every=3))
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert f"{orphan}/checkpoint-40 is of another training, with train.max_steps=0, train.micro_batch x accumulation=1, train.seed=3." in capsys.readouterr().out  # fmt: skip

    saved: list[int] = []
    plain = trainer.PackTrainer.save_checkpoint

    def save(self: Any) -> None:
        saved.append(self.step)
        plain(self)

    monkeypatch.setattr(trainer.PackTrainer, "save_checkpoint", save)
    metrics = main(train_settings(max_steps=6, accumulation=2, save_every=1, log_every=2))
    assert metrics is not None
    assert metrics["steps"] == 6
    assert "resuming after step 3 of 6" in capsys.readouterr().out
    assert saved == [4, 5, 6], "the saves of this run's settings, not of the checkpoint's"
    assert not CHECKPOINTS_FOLDER.exists()


def kill_after_save(step: int) -> Any:
    from stages.train.trainer import PackTrainer

    plain = PackTrainer.save_checkpoint

    def save(self: Any) -> None:
        plain(self)
        assert last_checkpoint(self.scratch)
        if self.step == step:
            raise KeyboardInterrupt

    return save
