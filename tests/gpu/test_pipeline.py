"""The stages that use a GPU, in their order, on the default model; and their speed beside TRL's trainer."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.clean import compose, copied, environment, stage_command
from tests.helpers.tiny_project import REPOSITORY

pytestmark = pytest.mark.gpu

INPUTS = ("models/base", "data/packed", "data/clean", "data/benchmarks")


def require_inputs() -> None:
    missing = [name for name in INPUTS if not (REPOSITORY / name).is_dir()]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: run `dvc repro pack` first")


def run_stage(folder: Path, stage: str, *overrides: str) -> None:
    done = subprocess.run(
        stage_command(stage, *overrides),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    "preset", [["train.quantization=nf4"], ["train.dtype=float16", "train.attention=sdpa"]]
)
def test_the_default_model_is_trained_merged_and_scored(tmp_path: Path, preset: list[str]) -> None:
    require_inputs()
    copied(tmp_path)
    (tmp_path / "requirements.lock").symlink_to(REPOSITORY / "requirements.lock")
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to((REPOSITORY / name).resolve())
    compose(tmp_path, ["train.max_steps=40", "track.live=false", "evaluate.benchmarks=[humaneval]", *preset])
    for stage in ("train", "merge"):
        run_stage(tmp_path, stage)
    run_stage(tmp_path, "evaluate", "evaluate.target=tuned")
    reports = {
        name: json.loads((tmp_path / f"reports/{name}.json").read_text("utf-8"))
        for name in ("train", "merge", "evaluate/tuned")
    }
    assert reports["train"]["gpu"] == torch.cuda.get_device_name()
    assert reports["train"]["validation_loss_last"] < reports["train"]["validation_loss_first"]
    assert reports["merge"]["gate"] == "passed"
    assert reports["evaluate/tuned"]["tried"] > 0


def test_tokens_a_second_beside_trl(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the benchmark's table. TRL is not in requirements.lock; where it is not installed, ours runs alone."""
    require_inputs()
    sides = ["ours", *(["TRL"] if importlib.util.find_spec("trl") else [])]
    command = [
        sys.executable,
        "-m",
        "benchmarks.train",
        "--steps",
        "12",
        "--turns",
        "1",
        "--here",
        "--sides",
        *sides,
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with capsys.disabled():
        print("\n" + done.stdout)
