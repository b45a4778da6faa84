"""A training that is killed, stopped or out of disk resumes and ends with the same bytes as an undisturbed one.

Each case runs in its own process that ends at one point: by SIGKILL, or in the middle of a file by the kernel, which
ends a process that writes beyond RLIMIT_FSIZE.
"""

import csv
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.core.files import sha256_folder
from stages.train.checkpoints import (
    CHECKPOINT_MANIFEST,
    CHECKPOINTS_FOLDER,
    is_complete,
    last_checkpoint,
    publish_checkpoint,
)
from tests.helpers.fork_server import Forks
from tests.helpers.train_workplace import train_settings, workplace

pytestmark = pytest.mark.slow

CHANGES: dict[str, Any] = {"dropout": 0.2, "save_every": 3, "eval_every": 2, "epochs": 1.5}  # 12 steps
# Of a checkpoint, in their order: the first, of torch, the last
FILES = ("adapter_model.safetensors", "optimizer.pt", CHECKPOINT_MANIFEST)


def patch(owner: Any, name: str, at: Callable[..., bool], act: Callable[..., None], count: int = 1) -> None:
    """Call `act` before the `count`-th call of a function for which `at` holds."""
    original, seen = getattr(owner, name), [0]

    def patched(*arguments: Any, **options: Any) -> Any:
        seen[0] += at(*arguments, **options)
        if seen[0] == count and at(*arguments, **options):
            act(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, patched)


def die(*arguments: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cut(*arguments: Any, **options: Any) -> None:
    """Let the kernel end the process 64 bytes into the next file it writes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def is_full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_file(name: str, act: Callable[..., None], count: int) -> None:
    """Call `act` before a checkpoint's file is written for the `count`-th time."""
    from stages.train import trainer
    from stages.train.training_curve import Curve

    always = lambda *arguments, **options: True  # noqa: E731
    if name == "adapter_model.safetensors":
        patch(trainer, "save_adapter", always, act, count)
    elif name == "curve.json":
        patch(Curve, "save", always, act, count)
    elif name == CHECKPOINT_MANIFEST:
        patch(Path, "write_text", lambda path, *_: path.name == CHECKPOINT_MANIFEST, act, count)
    else:
        patch(torch, "save", lambda value, path, *_: str(path).endswith(name), act, count)


def train(point: str = "", name: str = "") -> None:
    """Train as the command does, and end at `point`."""
    from stages.common.core.stage import errors_as_message
    from stages.common.model.packed_model import PackedModel
    from stages.train import checkpoints, lora_adapter, trainer
    from stages.train.__main__ import train_here
    from stages.train.launch import handle_signals

    def at_step(number: int) -> Callable[..., bool]:
        return lambda training: training.step == number

    if point == "step":
        patch(trainer.PackTrainer, "end_step", at_step(5), die)
    elif point == "validation":
        patch(PackedModel, "forward", lambda model, **_: not model.training, die, count=7)
    elif point == "file":
        at_file(name, cut, count=2)
    elif point == "renamed":
        patch(checkpoints, "sync_to_disk", lambda path: path.parent == CHECKPOINTS_FOLDER, die, count=2)
    elif point == "adapter":
        patch(lora_adapter, "save_adapter", lambda *_: True, cut)
    elif point == "full":
        at_file(name, is_full, count=2)
    elif point == "full torch":
        save_to_a_full_disk()
    elif point == "full adapter":
        patch(lora_adapter, "save_adapter", lambda *_: True, is_full)
    elif point == "gradient":
        patch(trainer.PackTrainer, "clip_gradient", lambda *_: True, spoil_gradient, count=5)
    elif point == "signal":
        number = getattr(signal, name)
        patch(trainer.PackTrainer, "end_step", at_step(5), lambda *_: os.kill(os.getpid(), number))
    with handle_signals(), errors_as_message("train"):
        train_here(train_settings(**CHANGES))


def save_to_a_full_disk() -> None:
    """Send torch.save of the second checkpoint's optimizer to a full device: it raises its own kind of error."""
    save, seen = torch.save, [0]

    def full(value: Any, path: Any) -> None:
        seen[0] += str(path).endswith("optimizer.pt")
        save(value, "/dev/full" if seen[0] == 2 and str(path).endswith("optimizer.pt") else path)

    torch.save = full


def spoil_gradient(training: Any) -> None:
    next(p for p in training.model.parameters() if p.requires_grad).grad.fill_(float("inf"))


@pytest.fixture(scope="module")
def whole(forks: Forks, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """Return adapter hash and curve of an undisturbed training."""
    root = workplace(tmp_path_factory.mktemp("whole") / "place", tiny_model)
    assert forks.run("tests.train.test_killed:train", root) == [0]
    return sha256_folder(root / "models/adapter"), rows(root)


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "reports/train.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(forks: Forks, place: Path, point: str = "", name: str = "") -> tuple[int, str]:
    """Return exit status and output."""
    (status,) = forks.run("tests.train.test_killed:train", place, point=point, name=name)
    return status, (place / "rank0.log").read_text("utf-8")


def ends_as_if_nothing_happened(forks: Forks, place: Path, whole: Any, step: int) -> None:
    status, output = run(forks, place)
    assert status == 0, output
    assert f"resuming after step {step} of 12" in output
    assert (sha256_folder(place / "models/adapter"), rows(place)) == whole
    assert not list((place / CHECKPOINTS_FOLDER).glob("*"))


@pytest.mark.parametrize(
    ("point", "name", "ended", "step"),
    [
        ("step", "", signal.SIGKILL, 3),
        ("validation", "", signal.SIGKILL, 3),
        *[("file", name, signal.SIGXFSZ, 3) for name in FILES],
        ("renamed", "", signal.SIGKILL, 6),
        ("adapter", "", signal.SIGXFSZ, 12),
    ],
)
def test_a_training_killed_anywhere_ends_with_the_same_bytes(
    point: str, name: str, ended: int, step: int, forks: Forks, place: Path, whole: Any
) -> None:
    status, output = run(forks, place, point, name)
    assert status == -ended, output
    assert not Path("models/adapter").exists()
    if point == "file":
        assert list(CHECKPOINTS_FOLDER.glob("*/incomplete/checkpoint-6"))  # that is where it was cut
    ends_as_if_nothing_happened(forks, place, whole, step)


def test_a_checkpoint_cut_by_a_power_loss_is_not_used(forks: Forks, place: Path, whole: Any) -> None:
    assert run(forks, place, "renamed")[0] == -signal.SIGKILL
    (last,) = CHECKPOINTS_FOLDER.glob("*/checkpoint-6")
    os.truncate(last / "optimizer.pt", (last / "optimizer.pt").stat().st_size // 2)
    ends_as_if_nothing_happened(forks, place, whole, 3)


@pytest.mark.parametrize(("point", "name"), [("full", "curve.json"), ("full torch", "")])
def test_a_full_disk_ends_it_clearly_and_keeps_the_last_checkpoint(
    point: str, name: str, forks: Forks, place: Path, whole: Any
) -> None:
    status, output = run(forks, place, point, name)
    assert status == 1
    error = output.strip().splitlines()[-1]
    assert error.startswith("error in stage train: step 6: the checkpoint cannot be written")
    assert "resumes after step 3" in error
    assert "Traceback" not in output
    assert not Path("models/adapter").exists()
    ends_as_if_nothing_happened(forks, place, whole, 3)


def test_a_full_disk_at_the_adapter_leaves_the_old_one(forks: Forks, place: Path, whole: Any) -> None:
    Path("models/adapter").mkdir()
    Path("models/adapter/old").touch()
    status, output = run(forks, place, "full adapter")
    assert status == 1
    assert "error in stage train: the disk is full" in output
    assert [p.name for p in Path("models").glob("*adapter*/*")] == ["old"]
    ends_as_if_nothing_happened(forks, place, whole, 12)


def test_a_gradient_that_is_not_finite_ends_it(forks: Forks, place: Path, whole: Any) -> None:
    status, output = run(forks, place, "gradient")
    assert status == 1
    assert "error in stage train: step 5: the gradient is not finite" in output
    assert "The last checkpoint stays in .cache/train/" in output
    assert not Path("models/adapter").exists()
    ends_as_if_nothing_happened(forks, place, whole, 3)


@pytest.mark.parametrize(("name", "ended"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_training_says_where_it_resumes(
    name: str, ended: int, forks: Forks, place: Path, whole: Any
) -> None:
    status, output = run(forks, place, "signal", name)
    assert status == ended, output
    assert output.strip().splitlines()[-1].startswith("train: stopped. The next run resumes after step 3")
    assert "Traceback" not in output
    ends_as_if_nothing_happened(forks, place, whole, 3)


def damage_cut(folder: Path) -> None:
    os.truncate(folder / "weights", 2)


def damage_flip(folder: Path) -> None:
    (folder / "weights").write_bytes(b"1235")


def damage_missing(folder: Path) -> None:
    (folder / "state").unlink()


def damage_manifest(folder: Path) -> None:
    os.truncate(folder / CHECKPOINT_MANIFEST, 0)


def damage_no_manifest(folder: Path) -> None:
    (folder / CHECKPOINT_MANIFEST).unlink()


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_flip, damage_missing, damage_manifest, damage_no_manifest]
)
def test_the_last_checkpoint_is_the_last_complete_one(damage: Any, tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nothing") is None
    for step in (3, 20, 100):
        aside = tmp_path / "incomplete" / f"checkpoint-{step}"
        aside.mkdir(parents=True)
        (aside / "weights").write_bytes(b"1234")
        (aside / "state").write_bytes(b"")
        publish_checkpoint(aside, tmp_path / aside.name)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    damage(tmp_path / "checkpoint-100")
    assert not is_complete(tmp_path / "checkpoint-100")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    shutil.rmtree(tmp_path / "checkpoint-20")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
