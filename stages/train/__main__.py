"""QLoRA: train an adapter on the packs, over a base model that is frozen in 4 bits.

    dvc repro train
    python -m stages.train train.lora.rank=32 train.epochs=1
    python -m stages.train train.launcher=accelerate train.processes=2 train.accumulation=2

Writes models/adapter (adapter_config.json and adapter_model.safetensors as peft reads them, quantization.json for
merging) and the curve, reports/train.csv. Killed, it goes on from its last checkpoint and ends with the same bytes.
"""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.curve import CURVE_FILE, CurveRow
from stages.common.errors import UserError
from stages.common.files import replacing, sha256_file, write_json
from stages.common.model.packs import Packs, batches, read_packs
from stages.common.stage import Settings, run
from stages.common.tracking import LiveRun
from stages.train.best import best_step
from stages.train.checkpoints import SCRATCH, goes_on, last_checkpoint, steps_of, training_key
from stages.train.launch import SCRATCH as PLACE
from stages.train.launch import launch, leave_word, leaving_word, stoppable
from stages.train.ranks import agreed, is_rank, join, leave, mean_loss_of_ranks, threads_each
from stages.train.schedule import PlannedPacks, ended_by, plan, refuse_impossible, step_count
from stages.train.settings import TrainSettings
from stages.train.throughput import measure, products_in
from stages.train.training_curve import Curve, share
from stages.train.training_progress import Progress

if TYPE_CHECKING:
    import torch

    from stages.common.model.packed_model import PackedModel
    from stages.common.model.quantize import Quantization

BASE = Path("models/base")
PACKED = Path("data/packed")
ADAPTER = Path("models/adapter")
LOCK = Path("requirements.lock")
STAGES = Path(__file__).resolve().parents[1]
# as the user gave them: Hydra's entry point changes both, and ranks are started with them
ARGUMENTS, TRACEBACK = sys.argv[1:], os.environ.get("HYDRA_FULL_ERROR") == "1"


def main(settings: Settings) -> dict[str, Any] | None:
    """Packs in, adapter out; what was trained on, how fast, and the losses. None where another process tells it."""
    if settings.train.launcher == "accelerate" and not is_rank():
        launch(settings.train, ["stages.train", *ARGUMENTS], TRACEBACK)
        return None
    with leaving_word(TRACEBACK):
        return train_here(settings)


def train_here(settings: Settings) -> dict[str, Any] | None:
    """The training, or this rank's part of it; the first rank alone writes, and returns the metrics."""
    import torch

    from stages.common.model.load import load_model
    from stages.common.model.quantize import Quantization, device
    from stages.common.model.trained import BASE_FILE
    from stages.train.fsdp import shard
    from stages.train.lora_adapter import save_adapter
    from stages.train.steps import StepCallback
    from stages.train.trainer import PackTrainer

    train: TrainSettings = settings.train
    packs, held_out = read_training_packs(), read_packs(PACKED / "validation.arrow")
    order = plan(packs.tokens, train)
    steps = step_count(len(order), train)
    refuse_impossible(train, steps, len(held_out))
    rank, ranks = join()
    torch.set_num_threads(train.threads or threads_each(ranks))

    quantization = Quantization(
        train.quantization, train.double_quantization, train.dtype, initialisation=train.lora.init
    )
    sharded = ranks > 1 and train.accelerate == "fsdp"
    # as bitsandbytes' guide to FSDP-QLoRA says; what a weight is does not depend on the type that holds its bits
    held = replace(quantization, quant_storage=train.dtype) if sharded else quantization
    base = load_model(BASE, held, train.attention, on_host=sharded)
    key, checkpoint = agreed(lambda: named(train))
    curve, scratch = Curve(), SCRATCH / key
    model = adapted_model(base, train, held, packs, order, checkpoint)
    if sharded:
        shard(model, base._no_split_modules or (), device(), ranks)

    held_out_rows = batches(held_out, train.micro_batch, train.eval_tokens)
    trainer = PackTrainer(model, PlannedPacks(packs, order), train, scratch, curve)
    validate = curve.timed(lambda: mean_loss_of_ranks(trainer.model, held_out_rows, trainer.accelerator))
    trainer.add_callback(StepCallback(trainer, train, len(packs), validate))
    machine = measure(model, base.config.to_dict(), train.dtype, settings.track.peak_seconds)
    curve.machine = machine and replace(machine, rate=machine.rate * ranks)
    telling = told(curve, settings.track, key, steps, checkpoint, train.eval_every)
    gc.collect()
    gc.freeze()  # what is loaded stays to the end: collections between steps need not go through it
    with telling if rank == 0 else nullcontext():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    leave()
    if rank > 0:
        return None

    with replacing(ADAPTER) as folder:
        folder.mkdir()
        save_adapter(model.model, folder)
        quantization.save(folder)
        write_json(folder / BASE_FILE, {p.name: sha256_file(p) for p in sorted(BASE.glob("*.safetensors"))})
    curve.write_csv(CURVE_FILE)
    kept_step = best_step(curve.rows) if train.keep_best else curve.rows[-1].step
    shutil.rmtree(scratch, ignore_errors=True)
    return {
        **summary(curve),
        "validation_loss_kept": next(r.validation_loss for r in curve.rows if r.step == kept_step),
        "steps": curve.rows[-1].step,
        "ended_by": "early_stopping" if trainer.stopped_early else ended_by(packs.tokens, train),
        "kept_step": kept_step,
        "optimizer": train.optimizer,
        "schedule": train.schedule,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_key": key,
        "quantization": train.quantization,
        "processes": ranks,
        **where_it_ran(train.dtype, model.device),
    }


def where_it_ran(dtype: str, device: "torch.device") -> dict[str, Any]:
    """What the bytes of the adapter depend on beside what was asked for."""
    import torch

    return {
        "products": products_in(dtype, device),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def adapted_model(
    base: Any,
    train: TrainSettings,
    quantization: "Quantization",
    packs: Packs,
    order: list[int],
    checkpoint: Path | None,
) -> "PackedModel":
    """The base with the adapter to train: a new one, or that of a checkpoint."""
    from stages.common.model.fused import fuse
    from stages.common.model.packed_model import PackedModel
    from stages.common.model.trained import with_trained_adapter
    from stages.train.initialise import eva_rows
    from stages.train.lora_adapter import add_adapter

    fuse(base)
    if checkpoint:  # it carries what the initialisation made, and goes on from there
        peft_model = with_trained_adapter(base, BASE, checkpoint, quantization, trainable=True)
    else:
        rows = eva_rows(packs, order, train.lora, train.micro_batch)
        peft_model = add_adapter(base, train.lora, train.seed, BASE, quantization, rows)
    if train.gradient_checkpointing:
        base.activation_checkpointing_enable()
    return PackedModel(peft_model, train.attention)


def named(train: "TrainSettings") -> tuple[str, Path | None]:
    """The training's key, and the checkpoint to go on from."""
    key = training_key(train, PACKED, BASE, LOCK, STAGES)
    leave_word(PLACE, str(SCRATCH / key))
    return key, last_checkpoint(SCRATCH / key)


def read_training_packs() -> Packs:
    """The packs to train on.

    Raises:
        UserError: there is none.
    """
    packs = read_packs(PACKED / "train.arrow")
    if not len(packs):
        raise UserError(
            f"{packs.path}: no packs to train on. Look at reports/clean.json for what was dropped."
        )
    return packs


@contextmanager
def told(
    curve: Curve, track: Any, key: str, steps: int, checkpoint: Path | None, eval_every: int
) -> Iterator[None]:
    """While the block runs, new rows of the curve go to the terminal and to MLflow."""
    done = steps_of(checkpoint) if checkpoint else 0
    if done:
        print(f"train: goes on after step {done} of {steps}, where it was interrupted", flush=True)
    progress, live, status = Progress(curve, steps, done, eval_every), LiveRun.start(track, key), "FAILED"
    so_far = SCRATCH / key / CURVE_FILE.name  # what a sweep that stops hopeless points looks at
    curve.listeners += [
        progress,
        lambda row: live.log(measures(row), row.step),
        lambda row: None if row.validation_loss is None else curve.write_csv(so_far),
    ]
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise KeyboardInterrupt(goes_on(SCRATCH / key)) from None
    finally:
        progress.close()
        live.close(status)


def measures(row: CurveRow) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "step"}


def summary(curve: Curve) -> dict[str, Any]:
    """Counts, speed and losses; None where nothing was measured."""
    counts = curve.counts
    losses = [row.loss for row in curve.rows if row.loss is not None]
    held_out = [row.validation_loss for row in curve.rows if row.validation_loss is not None]
    return {
        "epochs": curve.rows[-1].epoch,
        "tokens_trained": counts.tokens,
        "labelled_tokens_trained": counts.labelled,
        "tokens_per_second": round(counts.tokens / counts.seconds, 1) if counts.seconds else None,
        "share_of_peak": share(counts.operations, counts.possible),
        "gemm_gflops": round(counts.possible / counts.seconds / 1e9, 1) if counts.possible else None,
        "train_loss_last": losses[-1] if losses else None,
        "validation_loss_first": held_out[0] if held_out else None,
        "validation_loss_last": held_out[-1] if held_out else None,
    }


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on disk; nothing may ask the network
    with stoppable():
        run("train", main, observes=("track",))
