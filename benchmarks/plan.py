"""The plan's memory against measured peaks of the train stage, and how much the loss of a row varies.

    python -m benchmarks.plan memory            # some settings, up to 12 steps each; 25 to 100 seconds a setting
    python -m benchmarks.plan memory --only 3 5
    python -m benchmarks.plan spread            # of the validation rows, with the trained adapter; half a minute

Peaks are the kernel's of the whole process (VmHWM), as reports/train.json has them, of models/base on packs of data/clean.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clean import REPOSITORY, compose, copied, environment, stage_command
from benchmarks.tell import machine
from stages.common.core.files import read_metrics

MODEL, CLEAN = Path("models/base"), Path("data/clean")
WITHIN = 0.15
# pack length, micro batch, gradient checkpointing, quantization
SETTINGS = [
    (192, 1, False, "nf4"),
    (192, 10, False, "nf4"),
    (1024, 1, False, "nf4"),
    (1024, 4, False, "nf4"),
    (1024, 4, True, "nf4"),
    (1024, 1, False, "none"),
    (1024, 4, True, "none"),
]
STEPS, TOKENS = 12, 24_576  # at most, of a run: the heap grows in the first steps
FIXED = {
    "accumulation": 1,
    "max_tokens": 0,
    "eval_tokens": 1,
    "save_every": 0,
}


def main() -> None:
    given = arguments()
    print(machine(("torch", "transformers", "bitsandbytes")), flush=True)
    if given.what == "spread":
        spread()
        return
    with tempfile.TemporaryDirectory() as name:
        memory(Path(name), given.only or list(range(len(SETTINGS))))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("memory", "spread"))
    parser.add_argument("--only", nargs="+", type=int, help="numbers of settings, from 0")
    return parser.parse_args()


def memory(folder: Path, chosen: list[int]) -> None:
    """Each setting's estimate and peak, and whether all are within 15%."""
    print(
        f"{'packs of':>8}{'micro batch':>13}{'checkpointing':>15}{'base':>6}{'estimate MiB':>14}{'peak MiB':>10}{'ratio':>7}"
    )
    ratios = []
    for number in chosen:
        length, size, checkpointing, quantization = SETTINGS[number]
        root = project(folder / str(length), [f"pack.max_length={length}"])
        overrides = [
            f"train.max_steps={min(STEPS, TOKENS // (length * size))}",
            f"train.micro_batch={size}",
            f"train.gradient_checkpointing={str(checkpointing).lower()}",
            f"train.quantization={quantization}",
        ]
        estimate = planned(root, [f"pack.max_length={length}", *overrides]) / 2**20
        stage(root, "train", *overrides)
        peak = read_metrics(root / "reports/train.json")["peak_memory_mib"]
        ratios.append(estimate / peak)
        print(
            f"{length:>8}{size:>13}{'on' if checkpointing else 'off':>15}{quantization:>6}{estimate:>14,.0f}{peak:>10,}{ratios[-1]:>7.2f}",
            flush=True,
        )
    worst = max(ratios, key=lambda r: abs(r - 1))
    fits = all(abs(r - 1) <= WITHIN for r in ratios)
    print(f"{'within' if fits else 'OUTSIDE'} {WITHIN:.0%}; worst {worst:.2f}")
    sys.exit(not fits)


def project(root: Path, overrides: list[str]) -> Path:
    """A project with packs of data/clean; made once."""
    if root.exists():
        return root
    root.mkdir()
    copied(root)
    for path in (MODEL, CLEAN):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to((REPOSITORY / path).resolve())
    shutil.copy(REPOSITORY / "requirements.lock", root)
    compose(root, [*overrides, *(f"train.{key}={value}" for key, value in FIXED.items())])
    stage(root, "pack")
    return root


def planned(root: Path, overrides: list[str]) -> int:
    """Bytes that the plan's command gives, with the settings that all runs have."""
    fixed = [f"train.{key}={value}" for key, value in FIXED.items()]
    return sum(json.loads(stage(root, "plan", *overrides, *fixed, "--json"))["memory"].values())


def stage(root: Path, name: str, *overrides: str) -> str:
    command = stage_command(name, *overrides)
    done = subprocess.run(
        command, cwd=root, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def spread() -> None:
    """Standard deviations between validation rows: of a row's mean loss, and of its change between two evaluations.

    Of models/adapter, whole and at a part of its strength: models that differ as two evaluations late in a training do.
    """
    from stages.common.model.fused import fuse_norms
    from stages.common.model.load import load_frozen_model
    from stages.common.model.packed_model import PackedModel, mean_loss
    from stages.common.model.packs import flatten_packs, read_packs
    from stages.common.model.quantize import Quantization
    from stages.common.model.trained import attach_trained_adapter

    adapter = Path("models/adapter")
    quantization = Quantization.load(adapter)
    base = load_frozen_model(MODEL, quantization)
    fuse_norms(base)
    model = PackedModel(attach_trained_adapter(base, adapter))
    packs = read_packs("data/packed/validation.arrow")
    rows = [flatten_packs([one]) for index in range(len(packs)) for one in apart(packs[index])]
    whole = {name: p.data.clone() for name, p in model.named_parameters() if "lora_B" in name}
    print(
        f"{'strength':>9}{'mean loss':>11}{'deviation':>11}{'change':>9}{'deviation':>11}   over {len(rows)} documents"
    )
    final: list[float] = []
    for strength in (1.0, 0.9, 0.8, 0.7):
        for name, parameter in model.named_parameters():
            if name in whole:
                parameter.data = whole[name] * strength
        losses = [mean_loss(model, [row]) or 0.0 for row in rows]
        final = final or losses
        changes = [b - a for a, b in zip(final, losses, strict=True)]
        print(
            f"{strength:>9}{statistics.mean(losses):>11.3f}{statistics.stdev(losses):>11.3f}"
            f"{statistics.mean(changes):>9.3f}{statistics.stdev(changes):>11.3f}",
            flush=True,
        )


def apart(pack: dict[str, Any]) -> list[dict[str, Any]]:
    """Each document of a pack as a pack of its own."""
    found, start = [], 0
    for length in pack["lengths"]:
        its = slice(start, start + length)
        found.append(
            {"input_ids": pack["input_ids"][its], "labels": pack["labels"][its], "lengths": [length]}
        )
        start += length
    return found


if __name__ == "__main__":
    main()
