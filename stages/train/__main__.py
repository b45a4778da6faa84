"""Train a QLoRA adapter on the packs, over a base model frozen in 4 bits.

    dvc repro train
    python -m stages.train train.lora.rank=32 train.epochs=1
    python -m stages.train train.launcher=accelerate train.processes=2 train.accumulation=2

Writes models/adapter (adapter_config.json and adapter_model.safetensors in peft's format, quantization.json for
merging) and the loss curve, reports/train.csv. Rerun the same command to resume a killed training from its last
checkpoint; the adapter ends with the same bytes.
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

from stages.common.core.errors import UserError
from stages.common.core.files import atomic_folder, write_json
from stages.common.core.paths import ADAPTER, BASE_MODEL, PACKED
from stages.common.core.stage import Settings, run
from stages.common.curve import CURVE_FILE, CurveRow
from stages.common.model.packs import Packs, batch_packs, read_packs
from stages.common.tracking import LiveRun
from stages.train.base_loss import stored_base_loss
from stages.train.best import best_step
from stages.train.checkpoints import (
    CHECKPOINTS_FOLDER,
    checkpoint_step,
    describe_others,
    identify_training,
    last_checkpoint,
    remember_training,
    resume_message,
    training_key,
)
from stages.train.footprint import (
    describe_loading,
    describe_step,
    explain_shortage,
    peak_device_mib,
    weight_shares,
)
from stages.train.launch import CHECKPOINTS_FILE, forward_errors, handle_signals, launch, leave_message
from stages.train.ranks import (
    from_first_rank,
    is_rank,
    join_ranks,
    leave_ranks,
    mean_loss_of_ranks,
    threads_per_rank,
)
from stages.train.schedule import OrderedPacks, limiting_budget, order_packs, refuse_impossible, step_count
from stages.train.settings import TrainSettings
from stages.train.throughput import measure_peak, product_dtype_name
from stages.train.training_curve import Curve
from stages.train.training_progress import TrainingProgress
from stages.train.warm_start import base_hashes, load_start, refuse_start, start_hashes

if TYPE_CHECKING:
    import torch

    from stages.common.model.packed_model import PackedModel
    from stages.common.model.quantize import Quantization

STAGES_FOLDER = Path(__file__).resolve().parents[1]
# Read before Hydra's entry point changes them: ranks are started with what the user gave
ARGUMENTS, TRACEBACK = sys.argv[1:], os.environ.get("HYDRA_FULL_ERROR") == "1"


def main(settings: Settings) -> dict[str, Any] | None:
    """Train an adapter on the packs; return counts, speed and losses, or None where another process reports them."""
    if settings.train.launcher == "accelerate" and not is_rank():
        launch(settings.train, ["stages.train", *ARGUMENTS], TRACEBACK)
        return None
    with forward_errors(TRACEBACK):
        return train_here(settings)


def train_here(settings: Settings) -> dict[str, Any] | None:
    """Train in this process, alone or as one rank; only the first rank writes files and returns the metrics."""
    import torch

    from stages.common.model.checks import refuse_dtype
    from stages.common.model.load import load_frozen_model
    from stages.common.model.mergeable import refuse_unmergeable
    from stages.common.model.quantize import Quantization, compute_device
    from stages.common.model.shapes import model_shapes
    from stages.common.model.trained import BASE_FILE
    from stages.train.fsdp import shard_model
    from stages.train.lora_adapter import save_adapter
    from stages.train.source_weights import weigh_packs
    from stages.train.trainer import PackTrainer

    train: TrainSettings = settings.train
    refuse_dtype(train.dtype)
    refuse_start(train)
    packs, validation_packs = read_training_packs(), read_packs(PACKED / "validation.arrow")
    source_weights = weigh_packs(packs, train.source_weights)
    order = order_packs(packs.tokens, train)
    steps = step_count(len(order), train)
    refuse_impossible(train, steps, len(validation_packs))
    rank, ranks = join_ranks()
    torch.set_num_threads(train.threads or threads_per_rank(ranks))

    quantization = Quantization(
        train.quantization, train.double_quantization, train.dtype, initialisation=train.lora.init
    )
    sharded = ranks > 1 and train.accelerate == "fsdp"
    # Follows bitsandbytes' guide to FSDP-QLoRA; the storage dtype holds the same bits and changes no weight
    loaded = replace(quantization, quant_storage=train.dtype) if sharded else quantization
    refuse_unmergeable(BASE_MODEL)
    validation_rows = batch_packs(validation_packs, train.micro_batch, train.eval_tokens)
    base_loss = None
    if rank == 0 and not sharded and train.quantization != "none":
        base_loss = stored_base_loss(BASE_MODEL, train, validation_rows)
    with explain_shortage(lambda: describe_loading(train)):
        base = load_frozen_model(BASE_MODEL, loaded, train.attention, on_host=sharded)
        shapes = model_shapes(base)
        key, checkpoint = from_first_rank(lambda: find_checkpoint(train))
        curve, scratch = Curve(), CHECKPOINTS_FOLDER / key
        model = build_model(base, train, loaded, checkpoint)
        shares = weight_shares(model, shapes)
        if sharded:
            shard_model(model, base._no_split_modules or (), compute_device(), ranks)

    validate = curve.timed(lambda: mean_loss_of_ranks(model, validation_rows, trainer.accelerator))
    ordered = OrderedPacks(packs, order)
    trainer = PackTrainer(model, ordered, train, scratch, curve, validate, epoch_packs=len(packs))
    adapter = sum(p.numel() for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n)
    curve.peak = measure_peak(shapes, adapter, train.dtype, model.device, settings.track.peak_seconds, ranks)
    reporting = report_progress(curve, settings.track, key, steps, checkpoint, train.eval_every)
    gc.collect()
    gc.freeze()  # loaded objects live to the end: collections between steps need not scan them
    with (
        reporting if rank == 0 else nullcontext(),
        explain_shortage(lambda: describe_step(model, trainer.optimizer, trainer.step, scratch, train)),
    ):
        trainer.train(checkpoint)
    leave_ranks()
    if rank > 0:
        return None

    with atomic_folder(ADAPTER) as folder:
        save_adapter(model.model, folder)
        quantization.save(folder)
        write_json(folder / BASE_FILE, base_hashes())
    curve.write_csv(CURVE_FILE)
    kept_step = best_step(curve.rows) if train.keep_best else curve.rows[-1].step
    shutil.rmtree(
        CHECKPOINTS_FOLDER, ignore_errors=True
    )  # those of other trainings too, as was said at the start
    losses = summarise_curve(curve)
    return {
        **losses,
        # of the base as stored; `validation_loss_first` is of the base as quantized
        "base_loss": losses["validation_loss_first"] if train.quantization == "none" else base_loss,
        "validation_loss_kept": next(r.validation_loss for r in curve.rows if r.step == kept_step),
        "steps": curve.rows[-1].step,
        "ended_by": "early_stopping" if trainer.stopped_early else limiting_budget(packs.tokens, train),
        "kept_step": kept_step,
        "optimizer": train.optimizer,
        "schedule": train.schedule,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_key": key,
        **({"start_from": start_hashes(train)} if train.start_from else {}),
        **({"source_weights": source_weights} if source_weights else {}),
        "quantization": train.quantization,
        **shares,
        "processes": ranks,
        **describe_platform(train.dtype, model.device),
        "times": {**curve.times(), "peak_device_memory_mib": peak_device_mib()},
    }


def describe_platform(dtype: str, device: "torch.device") -> dict[str, Any]:
    """Return what the adapter's bytes depend on besides settings and data."""
    import torch

    return {
        "products": product_dtype_name(dtype, device),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def build_model(
    base: Any, train: TrainSettings, quantization: "Quantization", checkpoint: Path | None
) -> "PackedModel":
    """Put the adapter to train on the base: a new one, or that of a checkpoint."""
    from stages.common.model.checks import probe, refuse_changed_base, try_model
    from stages.common.model.fused import fuse_norms
    from stages.common.model.packed_model import PackedModel
    from stages.common.model.trained import attach_trained_adapter
    from stages.train.lora_adapter import add_adapter

    fuse_norms(base)
    before = probe(PackedModel(base, train.attention))
    if checkpoint:  # holds the result of the initialisation too
        peft_model = attach_trained_adapter(base, checkpoint, trainable=True)
    else:
        peft_model = add_adapter(base, train.lora, train.seed, BASE_MODEL, quantization)
        if train.start_from:
            load_start(peft_model, train)
    model = PackedModel(peft_model, train.attention).eval()
    refuse_changed_base(model, before, BASE_MODEL)
    try_model(model, BASE_MODEL)
    if train.gradient_checkpointing:
        base.activation_checkpointing_enable()
    return model


def find_checkpoint(train: "TrainSettings") -> tuple[str, Path | None]:
    """Return the training's key, and the checkpoint to resume from, if there is one; mention those of others."""
    identity = identify_training(train, PACKED, BASE_MODEL, STAGES_FOLDER)
    key = training_key(identity)
    checkpoint = last_checkpoint(CHECKPOINTS_FOLDER / key)
    leave_message(CHECKPOINTS_FILE, str(CHECKPOINTS_FOLDER / key))
    if checkpoint is None:
        for message in describe_others(identity):
            print(f"train: {message}", flush=True)
    remember_training(identity, CHECKPOINTS_FOLDER / key)
    return key, checkpoint


def read_training_packs() -> Packs:
    """Open the training packs.

    Raises:
        UserError: there are none.
    """
    packs = read_packs(PACKED / "train.arrow")
    if not len(packs):
        raise UserError(
            f"{packs.path}: no packs to train on. See reports/clean.json for what was dropped and why."
        )
    return packs


@contextmanager
def report_progress(
    curve: Curve, track: Any, key: str, steps: int, checkpoint: Path | None, eval_every: int
) -> Iterator[None]:
    """Send new rows of the curve to the terminal and to MLflow while the block runs."""
    done = checkpoint_step(checkpoint) if checkpoint else 0
    if done:
        print(f"train: resuming after step {done} of {steps}", flush=True)
    progress = TrainingProgress(curve, steps, done, eval_every)
    live = LiveRun.start(track, key)
    partial_curve = CHECKPOINTS_FOLDER / key / CURVE_FILE.name  # a sweep reads it to prune hopeless points
    curve.listeners += [
        progress,
        lambda row: live.log(row_measurements(row), row.step),
        lambda row: None if row.validation_loss is None else curve.write_csv(partial_curve),
    ]
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise KeyboardInterrupt(resume_message(CHECKPOINTS_FOLDER / key)) from None
    finally:
        progress.close()
        live.close(status)


def row_measurements(row: CurveRow) -> dict[str, Any]:
    """Return the row's columns except the step."""
    return {name: value for name, value in asdict(row).items() if name != "step"}


def summarise_curve(curve: Curve) -> dict[str, Any]:
    """Return counts and losses; None where nothing was measured."""
    counts = curve.counts
    losses = [row.loss for row in curve.rows if row.loss is not None]
    validation_losses = [row.validation_loss for row in curve.rows if row.validation_loss is not None]
    return {
        "epochs": curve.rows[-1].epoch,
        "tokens_trained": counts.tokens,
        "labelled_tokens_trained": counts.labelled,
        "train_loss_last": losses[-1] if losses else None,
        "validation_loss_first": validation_losses[0] if validation_losses else None,
        "validation_loss_last": validation_losses[-1] if validation_losses else None,
    }


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on disk: never ask the network
    with handle_signals():
        run("train", main, observes=("track",))
