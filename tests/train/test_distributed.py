"""Several processes train what one trains: gradients, order, checkpoints; they start, report and end as one."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages.common.core.errors import UserError
from stages.common.core.files import read_json, sha256_folder
from stages.common.model.packs import flatten_packs
from stages.train.checkpoints import CHECKPOINTS_FOLDER
from stages.train.launch import ACCELERATE_CONFIGS, FAILURE_FILE, explain_failure, launch
from stages.train.ranks import EMPTY_PACK, MicroBatches
from stages.train.schedule import OrderedPacks
from stages.train.settings import ACCELERATE
from tests.helpers.fork_server import Forks
from tests.helpers.tiny_project import REPOSITORY
from tests.helpers.train_ranks import UNEVEN, adapter, assert_close, curve
from tests.helpers.train_workplace import TRACK, TRAIN, workplace


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "packs"), [(1, 3, 8), (2, 3, 11), (3, 2, 7), (1, 4, 1)]
)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_each_step_s_packs(micro_batch: int, accumulation: int, packs: int, ranks: int) -> None:
    planned: Any = [{"input_ids": [n, n], "labels": [-100, n], "lengths": [2]} for n in range(packs)]
    alone = MicroBatches(planned, micro_batch, accumulation)
    shares = [MicroBatches(planned, micro_batch, accumulation, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # or one would wait for the others for ever
    for step in range(-(-packs // (micro_batch * accumulation))):
        wanted = rows_of_step(alone, step)
        found = [row for share in shares for row in rows_of_step(share, step)]
        assert sorted(found) == sorted(wanted)
        assert len(found) == len(set(found))


def rows_of_step(batches: MicroBatches, step: int) -> list[tuple[Any, ...]]:
    first = step * batches.rounds
    rows = [batches[i] for i in range(first, min(first + batches.rounds, len(batches)))]
    return [(row["number"], tuple(row["input_ids"][0].tolist())) for row in rows if row["packs"]]


@pytest.mark.slow
def test_ranks_make_the_gradients_of_one_process(place: Path, forks: Forks) -> None:
    for ranks in (1, 2, 3):
        assert (
            forks.run(
                "tests.helpers.train_ranks:save_gradients", place, ranks, epochs=1.0, dropout=0.1, **UNEVEN
            )
            == [0] * ranks
        )
    one, two, three = (torch.load(f"gradients{ranks}.pt") for ranks in (1, 2, 3))
    assert len(one) == 3
    for steps in (two, three):
        for step, other in zip(one, steps, strict=True):
            for a, b in zip(step, other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(any(t.abs().max() > 1e-3 for t in step) for step in one)


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_resumes_on_one_and_back(place: Path, forks: Forks) -> None:
    changes = {**UNEVEN, "dropout": 0.2, "save_every": 2, "eval_every": 3, "epochs": 3.0}
    assert forks.run("tests.helpers.train_ranks:train", place, 1, **changes) == [0]
    alone, rows = adapter(), curve()
    assert forks.run("tests.helpers.train_ranks:train", place, 2, **changes) == [0, 0]
    together = sha256_folder("models/adapter")
    assert_close(alone, adapter())
    for before, after in ((2, 1), (1, 2), (2, 2)):
        shutil.rmtree("models/adapter")
        killed = forks.run("tests.helpers.train_ranks:train", place, before, kill_after=5, **changes)
        assert killed == [-signal.SIGKILL] * before
        assert [p.name for p in CHECKPOINTS_FOLDER.glob("*/checkpoint-*")] == ["checkpoint-4"]
        assert forks.run("tests.helpers.train_ranks:train", place, after, **changes) == [0] * after
        assert "resuming after step 4 of 8" in Path("rank0.log").read_text("utf-8")
        assert_close(alone, adapter())
        assert [row["step"] for row in curve()] == [row["step"] for row in rows]
        for ours, theirs in zip(curve(), rows, strict=True):
            assert (ours["tokens"], ours["epoch"]) == (theirs["tokens"], theirs["epoch"])
            for name in ("loss", "validation_loss"):
                assert float(ours[name] or 0) == pytest.approx(float(theirs[name] or 0), rel=1e-5)
    assert sha256_folder("models/adapter") == together  # two ranks all the time: the same bytes


def test_only_the_first_rank_writes_and_prints(place: Path, forks: Forks) -> None:
    assert forks.run("tests.helpers.train_ranks:train", place, 2, max_steps=2, **UNEVEN) == [0, 0]
    assert "step 2 of 2" in Path("rank0.log").read_text("utf-8")
    assert Path("rank1.log").read_text("utf-8") == ""
    assert not list(CHECKPOINTS_FOLDER.glob("*"))


def test_more_processes_than_micro_batches_are_refused() -> None:
    with pytest.raises(UserError, match=r"set train\.accumulation=2"):
        launch(replace(TRAIN, launcher="accelerate", processes=2), ["tests.train.test_distributed"], False)


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_reads_its_files(name: str) -> None:
    from accelerate.commands.config import load_config_from_file

    config = load_config_from_file(str(REPOSITORY / ACCELERATE_CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == "MULTI_GPU"  # FSDP would let accelerate cut the model its own way


@pytest.mark.parametrize(
    ("statuses", "status", "message"),
    [
        ({0: 1, 1: 1}, 1, ""),
        ({0: -15, 1: 3}, 3, ""),
        ({0: -15}, 143, "process 0 was ended by SIGTERM"),
        ({0: 1, 1: -9}, 137, "process 1 was ended by SIGKILL"),
        ({0: -15, 1: -11}, 139, "process 1 was ended by SIGSEGV"),
    ],
)
def test_how_ranks_failed(statuses: dict[int, int], status: int, message: str) -> None:
    ended = explain_failure(statuses)
    assert ended.status == status
    assert message in ended.message
    assert bool(ended.message) == bool(message)


ENDINGS = """
import os, signal, sys, time
from pathlib import Path
from stages.common.core.errors import UserError
from stages.train.launch import FAILURE_FILE, MESSAGES_VARIABLE, forward_errors, leave_message
rank, how = int(os.environ["RANK"]), sys.argv[1]
with forward_errors(False):
    if how == "raises" and rank == 1:
        raise UserError("rank one says why")
    if how == "raises":  # as the other rank of a broken connection does, once the first has failed
        while not Path(os.environ[MESSAGES_VARIABLE], FAILURE_FILE).exists():
            time.sleep(0.01)
        raise RuntimeError("connection closed by peer")
    if how == "stopped" and rank == 1:
        leave_message("scratch", "nowhere")
        os.kill(os.getppid(), signal.SIGTERM)
    if how == "dies" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1000)  # the test's time limit comes first
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start two ranks that end in a given way."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    (tmp_path / "endings.py").write_text(ENDINGS, "utf-8")
    settings = replace(TRAIN, launcher="accelerate", processes=2, accumulation=2)
    return lambda how: launch(settings, ["endings", how], False)


@pytest.mark.parametrize(
    ("how", "status", "expected"),
    [
        ("raises", 1, "error in stage train: rank one says why"),
        ("dies", 137, "process 1 was ended by SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_message(
    how: str, status: int, expected: str, started: Any, capfd: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(how)
    assert ended.value.code == status
    error = capfd.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1, error


def test_a_signal_to_the_command_ends_its_ranks(started: Any) -> None:
    with pytest.raises(KeyboardInterrupt, match="the next run starts from the beginning"):
        started("stopped")


ALIKE: dict[str, Any] = {"accumulation": 2, "save_every": 2, "max_steps": 5, "dropout": 0.1}


@pytest.fixture(scope="module")
def untroubled(forks: Forks, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train on two ranks without a failure; return the hash of the adapter."""
    root = workplace(tmp_path_factory.mktemp("untroubled") / "place", tiny_model)
    assert forks.run("tests.helpers.train_ranks:train", root, 2, **ALIKE) == [0, 0]
    return sha256_folder(root / "models/adapter")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accelerate", "what", "on", "expected"),
    [
        ("ddp", "loss", 1, "step 4: the loss is not finite"),
        ("ddp", "disk", 0, "step 4: the checkpoint cannot be written, the disk is full"),
        ("fsdp", "gradient", 1, "step 4: the gradient is not finite"),
        ("fsdp", "disk", 0, "step 4: the checkpoint cannot be written, the disk is full"),
    ],
)
def test_a_failure_on_one_rank_ends_both_with_one_message(
    place: Path, forks: Forks, untroubled: str, accelerate: str, what: str, on: int, expected: str
) -> None:
    (place / "word").mkdir()
    wrong = {**ALIKE, "accelerate": accelerate}
    assert forks.run("tests.helpers.train_ranks:fail_on_one_rank", place, 2, what=what, on=on, **wrong) == [
        1,
        1,
    ]
    message = (place / "word" / FAILURE_FILE).read_text(
        "utf-8"
    )  # what `launch` prints, and all that it prints
    assert message.startswith(f"error in stage train: {expected}")
    assert len(message.splitlines()) == 1
    assert "checkpoint-2" in message if what == "disk" else "no adapter was written" in message
    assert not (place / "models/adapter").exists()
    assert [p.name for p in CHECKPOINTS_FOLDER.glob("*/checkpoint-*")] == ["checkpoint-2"]
    assert forks.run("tests.helpers.train_ranks:train", place, 2, **wrong) == [0, 0]
    assert "resuming after step 2 of 5" in Path("rank0.log").read_text("utf-8")
    assert sha256_folder("models/adapter") == untroubled


@pytest.mark.slow
def test_ranks_begin_with_what_one_process_begins_with(place: Path, forks: Forks) -> None:
    for ranks in (1, 2):
        statuses = forks.run(
            "tests.helpers.train_ranks:save_beginning",
            place,
            ranks,
            init="loftq",
            accumulation=2,
            max_steps=1,
        )
        assert statuses == [0] * ranks, Path("rank0.log").read_text("utf-8")
    one, *others = (torch.load(f"beginning{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert len({name.partition(" ")[0] for name in one}) == 3
    for other in others:
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_an_empty_pack_has_no_gradient(tiny_model: Path) -> None:
    from stages.common.model.load import load_frozen_model
    from stages.common.model.packed_model import PackedModel
    from stages.common.model.quantize import Quantization
    from stages.train.lora_adapter import add_adapter

    model = PackedModel(
        add_adapter(load_frozen_model(tiny_model, Quantization("none", True, "float32")), TRAIN.lora, 0)
    )
    loss = model(**flatten_packs([EMPTY_PACK]))
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
    planned: Any = OrderedPacks([EMPTY_PACK] * 2, [0, 1])  # type: ignore[arg-type]
    assert MicroBatches(planned, 1, 3, rank=2, ranks=3)[0]["packs"] == 0


@pytest.mark.slow
def test_the_command_starts_ranks_and_writes_what_they_trained(place: Path, forks: Forks) -> None:
    """`python -m stages.train` as dvc runs it, against two ranks of DDP started by hand."""
    settings = replace(
        TRAIN, launcher="accelerate", accelerate="fsdp", processes=2, accumulation=2, max_steps=3
    )
    shutil.copy(REPOSITORY / "dvc.yaml", place)
    shutil.copytree(REPOSITORY / ACCELERATE_CONFIGS, place / ACCELERATE_CONFIGS)
    sections = {"train": asdict(settings), "track": asdict(TRACK)}
    (place / "reports").mkdir(exist_ok=True)
    (place / "reports/config.yaml").write_text(yaml.safe_dump(sections), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.train", "train.lora.dropout=0.1"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("step 3 of 3") == 1
    metrics = read_json(place / "reports/train.json")
    assert (metrics["processes"], metrics["threads"], metrics["steps"]) == (2, 1, 3)
    ours = sha256_folder(place / "models/adapter")
    assert forks.run(
        "tests.helpers.train_ranks:train", place, 2, accumulation=2, max_steps=3, dropout=0.1
    ) == [0, 0]
    assert sha256_folder(place / "models/adapter") == ours
