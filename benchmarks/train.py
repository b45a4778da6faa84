"""QLoRA training: the train stage against TRL's SFTTrainer, in turns, on the same packs in the same order.

    python -m benchmarks.train                 # both, 12 steps of one pack of 1,024 tokens, two turns
    python -m benchmarks.train --sides ours    # without the peer
    python -m benchmarks.train --sides ours TRL float32    # and what the losses would be without rounding

Both train rank 16 on every linear layer of models/base in NF4, in bfloat16, with AdamW at a constant rate, from rows of
data/clean. Tokens per second are those of all steps but the first, the better turn; memory is the kernel's peak of the whole
command, loading included; the loss is the mean over the last half of the steps. `float32` is the train stage once more with
train.dtype=float32: which of two losses in bfloat16 is nearer to what the steps would give unrounded. Useful operations are
the products a QLoRA step cannot do without (stages/common/model/shapes.py), over the best rate of a product that was measured before
and after each run: of bfloat16, and of the dtype that this processor's products are made in (stages/common/model/products.py).
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.clean import compose, copied, environment, stage_command
from benchmarks.peers import FOLDER, TRL, python_of
from benchmarks.tell import Part, machine, ratio, table_of
from stages.common.core.files import read_metrics
from stages.common.model.packs import IGNORED, read_packs
from stages.common.model.quantize import compute_device
from stages.common.model.shapes import gemm_rate, model_shapes, training_flops
from stages.plan.model_config import modules_of
from stages.train.schedule import order_packs
from stages.train.settings import TrainSettings
from stages.train.throughput import product_dtype_name

MODEL, CLEAN = Path("models/base"), Path("data/clean")
LENGTH = 1024
DEVICE = torch.device(compute_device())
SIDES = ("ours", "TRL", "float32")
PEER = (*TRL, "transformers==5.23.0", "accelerate==1.15.0", "peft==0.21.2", "bitsandbytes==0.50.2")


@dataclass(frozen=True)
class Seen:
    """Of one training."""

    seconds: list[float]  # of each step
    losses: list[float]  # of each step, mean over its labelled tokens
    memory: int  # peak, bytes

    def rate(self, tokens: list[int]) -> float:
        """Tokens a second, the first step left out."""
        return sum(tokens[1:]) / sum(self.seconds[1:])

    @property
    def loss(self) -> float:
        half = self.losses[len(self.losses) // 2 :]
        return sum(half) / len(half)


def main() -> None:
    given = arguments()
    print(machine(("torch", "transformers", "peft", "bitsandbytes")), flush=True)
    python = python_of("train", *PEER) if "TRL" in given.sides and not given.here else Path(sys.executable)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name).resolve()
        settings = chosen(given.steps, given.rank)
        order = project(folder, settings, given.steps)
        packs = read_packs(folder / "data/packed/train.arrow")
        planned = [packs[index] for index in order]
        tokens = [len(pack["input_ids"]) for pack in planned]
        write_for_trl(planned, folder / "planned.arrow")
        sides = {
            "ours": lambda: ours(folder, settings),
            "TRL": lambda: trl(folder, python, given.steps, given.rank),
            "float32": lambda: ours(folder, [*settings, "train.dtype=float32"]),
        }
        seen: dict[str, list[Seen]] = {side: [] for side in given.sides}
        print(f"{'':<8}{'tokens/s':>10}{'peak GiB':>10}{'loss':>9}", flush=True)
        peaks = dict.fromkeys(("bfloat16", product_dtype_name("bfloat16", DEVICE)), 0.0)
        raise_to_measured(peaks)
        for side in given.sides * given.turns:
            one = sides[side]()
            raise_to_measured(peaks)
            seen[side].append(one)
            told = f"{side:<8}{one.rate(tokens):>10.1f}{one.memory / 2**30:>10.2f}{one.loss:>9.4f}"
            print(told, flush=True)
    best = {side: max(runs, key=lambda one: one.rate(tokens)) for side, runs in seen.items()}
    print("\n" + table_of(parts(best, tokens, useful(planned, given.rank), peaks)))


def raise_to_measured(peaks: dict[str, float]) -> None:
    """Measure the rate of a product of each dtype once more, and keep the higher one."""
    for dtype, rate in peaks.items():
        peaks[dtype] = max(rate, gemm_rate(dtype, DEVICE.type))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "TRL"])
    parser.add_argument("--here", action="store_true", help="TRL as it is installed here; install nothing")
    return parser.parse_args()


def chosen(steps: int, rank: int) -> list[str]:
    """Overrides of the configuration, the same for every side that is ours."""
    train = {
        "quantization": "nf4",
        "micro_batch": 1,
        "accumulation": 1,
        "learning_rate": 2e-4,
        "schedule": "constant",
        "warmup": 0,
        "epochs": 100,
        "max_tokens": 0,
        "max_steps": steps,
        "eval_tokens": 1,
        "save_every": 0,
    }
    return [
        *(f"train.{key}={value}" for key, value in train.items()),
        "track.live=false",
        f"train.lora.rank={rank}",
        f"train.lora.alpha={2 * rank}",
        f"pack.max_length={LENGTH}",
    ]


def project(folder: Path, settings: list[str], steps: int) -> list[int]:
    """A project with packs of data/clean; which packs are trained on, in order."""
    copied(folder)
    for path in (MODEL, CLEAN):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(path.resolve())
    compose(folder, settings)
    timed(stage_command("pack"), folder)
    train = TrainSettings(micro_batch=1, epochs=100, max_steps=steps)
    return order_packs(read_packs(folder / "data/packed/train.arrow").tokens, train)


def write_for_trl(packs: list[dict[str, list[int]]], path: Path) -> None:
    import pyarrow as pa

    names = {"input_ids": "input_ids", "labels": "labels", "seq_lengths": "lengths"}
    table = pa.table({theirs: [pack[own] for pack in packs] for theirs, own in names.items()})
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


def ours(folder: Path, settings: list[str]) -> Seen:
    compose(folder, settings)
    memory = timed(stage_command("train"), folder)
    with (folder / "reports/train.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    speeds = {
        row["step"]: row["tokens_per_second"] for row in read_metrics(folder / "reports/train.json")["curve"]
    }
    tokens = [int(row["tokens"]) for row in rows]
    new = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
    seconds = [count / speeds[int(row["step"])] for count, row in zip(new, rows, strict=True)]
    return Seen(seconds, [float(row["loss"]) for row in rows], memory)


def trl(folder: Path, python: Path, steps: int, rank: int) -> Seen:
    output = folder / "trl"
    output.mkdir(exist_ok=True)
    names = [str(MODEL.resolve()), str(folder / "planned.arrow"), str(output), str(steps), str(rank)]
    memory = timed([str(python), "-m", "benchmarks.train_trl_run", *names], folder)
    seen = json.loads((output / "seen.json").read_text())
    return Seen(seen["seconds"], seen["losses"], memory)


def useful(packs: list[dict[str, list[int]]], rank: int) -> float:
    """Floating-point operations of a step over these packs, per token."""
    shapes = model_shapes(modules_of(MODEL))
    adapter = sum(rank * (a + b) for a, b in shapes.linear.values())
    total = sum(
        training_flops(shapes, pack["lengths"], sum(label != IGNORED for label in pack["labels"]), adapter)
        for pack in packs
    )
    return total / sum(len(pack["input_ids"]) for pack in packs)


def timed(command: list[str], folder: Path) -> int:
    """Run a command to its end; its peak memory in bytes. Nothing looks at it meanwhile: both cores are its own.

    Raises:
        SystemExit: the command fails; with its last words.
    """
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}\n{output.read_text()[-3000:]}")
    return usage.ru_maxrss * 1024


def parts(best: dict[str, Seen], tokens: list[int], operations: float, peaks: dict[str, float]) -> list[Part]:
    ours, other = best.get("ours"), best.get("TRL")
    found = []
    if ours:
        for dtype, peak in peaks.items():
            share = ours.rate(tokens) * operations / peak
            note = f"{operations / 1e6:,.0f} MFLOP a token, {peak / 1e9:,.0f} GFLOP/s"
            asked = "0.60" if dtype == "bfloat16" else ""
            found.append(
                Part(f"useful operations over the {dtype} GEMM rate", f"{share:.2f}", "-", note, asked)
            )
    if ours and other:
        a, b = ours.rate(tokens), other.rate(tokens)
        found += [
            Part("tokens a second", f"{a:.1f}", f"{b:.1f}", ratio(a, b), "3.0x"),
            Part(
                "peak memory, GiB",
                f"{ours.memory / 2**30:.2f}",
                f"{other.memory / 2**30:.2f}",
                ratio(ours.memory, other.memory),
                "no more",
            ),
            Part(
                "loss after the same tokens",
                f"{ours.loss:.4f}",
                f"{other.loss:.4f}",
                f"{ours.loss / other.loss - 1:+.2%}",
                "within 0.5%",
            ),
        ]
    if ours and other and "float32" in best:
        exact = best["float32"].loss
        a, b = (f"{side.loss / exact - 1:+.2%}" for side in (ours, other))
        found.append(Part("loss beside float32's", a, b, f"float32: {exact:.4f}", ""))
    return found


if __name__ == "__main__":
    main()
