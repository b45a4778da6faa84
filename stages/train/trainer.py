"""The training loop: steps over packs in a fixed order, validation, early stopping, checkpoints."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from stages.common.core.errors import UserError
from stages.common.core.files import remove
from stages.common.model.packed_model import PackedModel
from stages.train.best import best_step, evaluations_since_improvement
from stages.train.checkpoints import (
    INCOMPLETE,
    checkpoint_step,
    is_disk_failure,
    last_checkpoint,
    publish_checkpoint,
    remove_other_checkpoints,
    resume_message,
)
from stages.train.fsdp import wrap_in_ddp
from stages.train.lora_adapter import parameter_groups, save_adapter
from stages.train.loss_scale import LossScale
from stages.train.neftune import EmbeddingNoise
from stages.train.optimizers import make_optimizer, make_scheduler
from stages.train.ranks import MicroBatches, micro_batch_seed
from stages.train.schedule import OrderedPacks, step_count
from stages.train.settings import TrainSettings
from stages.train.source_weights import count_labels, label_weight
from stages.train.training_curve import Curve

CURVE_STATE = "curve.json"
SCALE_STATE = "loss_scale.json"  # in a checkpoint of a training in float16
BEST_ADAPTER = "best.safetensors"  # in a checkpoint: the adapter of the lowest validation loss so far
BROKEN_BASE = (
    "the base gives values that are not finite. Its weight files may be damaged, or too large for train.dtype. "
    "Run `dvc repro -f -s base`, try train.dtype=float32, or choose another base."
)


class PackTrainer:
    """Trains a `PackedModel` on packs in a fixed order.

    A step's gradient is that of the mean loss over all its labelled tokens, however they are divided into micro
    batches and ranks. Random draws follow from the seed and the micro batch's number, so none are saved.

    Args:
        packs: in training order, of all epochs.
        scratch: folder of the checkpoints.
        validate: returns the validation loss, the same on all ranks; None where there are no labels.
        epoch_packs: packs of an epoch.
    """

    def __init__(
        self,
        model: PackedModel,
        packs: OrderedPacks,
        settings: TrainSettings,
        scratch: Path,
        curve: Curve,
        validate: Callable[[], float | None] = lambda: None,
        epoch_packs: int = 1,
    ) -> None:
        self.model, self.settings, self.scratch, self.curve = model, settings, scratch, curve
        self.validate, self.epoch_packs = validate, epoch_packs
        # Several processes communicate through gloo without GPUs
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = MicroBatches(packs, settings.micro_batch, settings.accumulation, rank, self.ranks)
        self.step, self.steps = 0, step_count(len(packs), settings)
        self.optimizer: Any = make_optimizer(settings, parameter_groups(model, settings))
        self.scheduler: Any = None
        self.scale = LossScale.of(settings.dtype)
        self.noise: EmbeddingNoise | None = None
        if settings.neftune_alpha:
            self.noise = EmbeddingNoise(model.causal.get_input_embeddings(), settings.neftune_alpha)
        self.best: dict[str, torch.Tensor] | None = None  # the adapter of the lowest validation loss
        self.stopped_early = False
        self.learning_rate = self.grad_norm = self.started = 0.0

    def train(self, checkpoint: Path | None = None) -> None:
        """Take all steps, those of a checkpoint left out; leave the last adapter in the model, or the best one."""
        self.scheduler = make_scheduler(self.settings, self.optimizer, self.steps)
        model = wrap_in_ddp(self.model) if self.ranks > 1 else self.model
        model.train()
        if checkpoint:
            self.load_checkpoint(checkpoint)
        else:
            self.close_first_row()
        self.started = time.perf_counter()
        while self.step < self.steps and not self.stopped_early:
            self.compute_gradient(model)
            self.learning_rate = self.scheduler.get_last_lr()[0]
            self.update()
            self.step += 1
            self.end_step()
            every = self.settings.save_every
            # A run resumed from a checkpoint of an early stop would train one more; from one before it, it stops here
            if every and not self.stopped_early and (self.step % every == 0 or self.step == self.steps):
                self.save_checkpoint()
        self.finish()

    def compute_gradient(self, model: Any) -> None:
        """Compute the gradient of the next step, over all ranks, clipped.

        Raises:
            UserError: loss or gradient is not finite (on every rank).
        """
        first, device = self.step * self.batches.rounds, self.accelerator.device
        rows = [self.batches[i] for i in range(first, min(first + self.batches.rounds, len(self.batches)))]
        labels = torch.tensor(sum(label_weight(row) for row in rows), device=device)
        labelled = self.accelerator.reduce(labels, "sum").item() or 1
        while True:
            # this rank's loss summed over labelled tokens, tokens, labelled tokens, packs, operations
            totals = torch.zeros(5, dtype=torch.float64, device=device)
            for row in rows:
                waits = (
                    model is not self.model and row is not rows[-1]
                )  # ranks exchange gradients once a step
                with model.no_sync() if waits else nullcontext():
                    loss = self.summed_loss(model, row, totals) / labelled * self.ranks
                    (loss * self.scale.value).backward()
            summed, tokens, counted, packs, operations = self.accelerator.reduce(totals, "sum").tolist()
            if not math.isfinite(summed):
                raise UserError(self.describe_divergence("the loss is not finite"))
            self.grad_norm = self.clip_gradient()
            if math.isfinite(self.grad_norm):
                break
            if not self.scale.lower():  # the same on every rank, since the gradient is
                raise UserError(self.describe_divergence("the gradient is not finite"))
            self.model.zero_grad()
        self.scale.count_step()
        weight = labelled if self.settings.source_weights and counted else None
        self.curve.add_micro_batch(summed, int(tokens), int(counted), int(packs), operations, weight)

    def summed_loss(self, model: Any, row: dict[str, Any], totals: torch.Tensor) -> torch.Tensor:
        """Return the loss of a micro batch, summed over its labelled tokens, and count it."""
        inputs = {name: value for name, value in row.items() if name not in ("packs", "number")}
        torch.manual_seed(micro_batch_seed(self.settings.seed, row["number"]))
        if self.noise is not None:
            self.noise.lengths = row["lengths"]
        summed = model(**inputs)
        if row["packs"]:
            labels, lengths = count_labels(row), row["lengths"]
            counts = [sum(lengths), labels, row["packs"], self.curve.operations(lengths, labels)]
            totals[0] += summed.detach()
            totals[1:] += torch.tensor(counts, dtype=torch.float64).to(totals.device)
        return summed

    def clip_gradient(self) -> float:
        """Clip the gradient, without the loss's scale, to `train.max_grad_norm`; return its norm before."""
        if self.scale.value != 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self.scale.value
        limit = self.settings.max_grad_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))

    def update(self) -> None:
        self.optimizer.step()
        self.scheduler.step()
        self.model.zero_grad()

    def close_first_row(self) -> None:
        """Validate the untrained model.

        Raises:
            UserError: the loss is not finite, or losses are compared and there is none.
        """
        loss = self.validate()
        if loss is None and (self.settings.keep_best or self.settings.early_stopping_patience):
            raise UserError(
                "train.keep_best and train.early_stopping_patience compare validation losses, and no token of the "
                "validation packs within train.eval_tokens has a label. Raise train.eval_tokens, or drop the keys."
            )
        if loss is not None and not math.isfinite(loss):
            raise UserError(self.describe_divergence("the validation loss is not finite"))
        self.curve.close_row(0, 0.0, 0.0, None, loss)

    def end_step(self) -> None:
        """Count the step's time, close a row of the curve where one is due, and validate."""
        self.curve.add_seconds(time.perf_counter() - self.started)
        every = self.settings.eval_every
        is_validated = self.step == self.steps or (every > 0 and self.step % every == 0)
        if is_validated or self.step % self.settings.log_every == 0:
            loss = self.validate() if is_validated else None
            epoch = self.curve.counts.packs / self.epoch_packs
            self.curve.close_row(self.step, epoch, self.learning_rate, self.grad_norm, loss)
            self.curve.correct_peak()
            if loss is not None:
                self.act_on_validation(loss)
        self.started = time.perf_counter()

    def act_on_validation(self, loss: float) -> None:
        """Keep the adapter if its validation loss is the lowest; stop early where it has not improved for long.

        Every decision here follows from the rows of the curve, which a checkpoint holds.
        """
        patience, rows = self.settings.early_stopping_patience, self.curve.rows
        if not math.isfinite(loss):
            raise UserError(self.describe_divergence("the validation loss is not finite", self.step))
        if self.settings.keep_best and best_step(rows) == self.step:
            self.best = self.copy_adapter()
        passed = evaluations_since_improvement(rows, self.settings.early_stopping_min_delta)
        if patience and passed >= patience and self.step < self.steps:
            self.stopped_early = True
            if self.accelerator.is_main_process:  # above the bar, where there is one
                tqdm.write(
                    f"train: stopped early after step {self.step}: {passed} validation losses without improvement"
                )

    def finish(self) -> None:
        """Put the best adapter in place of the last one, where it is kept."""
        from peft import set_peft_model_state_dict

        if self.settings.keep_best and self.best is not None:
            set_peft_model_state_dict(self.model.model, self.best)
        self.refuse_broken_weights()

    def describe_divergence(self, what: str, step: int | None = None) -> str:
        """Return the error message for a training that diverged."""
        if step is None and self.step == 0:  # no update was made yet
            return f"step 1: {what} before any update: {BROKEN_BASE}"
        kept = f" The last checkpoint stays in {self.scratch}." if last_checkpoint(self.scratch) else ""
        return (
            f"step {step or self.step + 1}: {what}; no adapter was written. "
            f"Lower train.learning_rate, raise train.warmup, or set train.max_grad_norm.{kept}"
        )

    def refuse_broken_weights(self) -> None:
        """Raise UserError if a value of the adapter is not finite: such an adapter is never written."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if not all(torch.stack([torch.isfinite(p).all() for p in trained]).tolist()):
            raise UserError(self.describe_divergence("the adapter's weights are not finite", self.step))

    def copy_adapter(self) -> dict[str, torch.Tensor]:
        """Copy the adapter to host memory, under the names that peft saves."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self.model.model)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def save_checkpoint(self) -> None:
        """Write a checkpoint aside and rename it, so that it is complete or absent. Only the first rank writes."""
        self.refuse_broken_weights()
        if not self.accelerator.is_main_process:
            return
        name = f"checkpoint-{self.step}"
        incomplete, place = self.scratch / INCOMPLETE, self.scratch / name
        remove(incomplete)  # left by a run that was killed while writing
        try:
            self.write_checkpoint(incomplete / name)
            publish_checkpoint(incomplete / name, place)
        except Exception as error:
            if not is_disk_failure(error):
                raise
            remove(incomplete)
            raise UserError(
                f"step {self.step}: the checkpoint cannot be written, the disk is full or fails "
                f"({error}). Free space and rerun the command. {resume_message(self.scratch)}"
            ) from error
        remove_other_checkpoints(self.scratch, place)

    def write_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_adapter(self.model.model, folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(self.scheduler.state_dict(), folder / "scheduler.pt")
        self.curve.save(folder / CURVE_STATE)
        if self.settings.dtype == "float16":
            (folder / SCALE_STATE).write_text(json.dumps(asdict(self.scale)), "utf-8")
        if self.best is not None:
            save_file(self.best, folder / BEST_ADAPTER)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue after a checkpoint; its adapter is in the model already."""
        self.step = checkpoint_step(folder)
        for name, part in (("optimizer", self.optimizer), ("scheduler", self.scheduler)):
            part.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu"))
        self.curve.load(folder / CURVE_STATE)
        if self.settings.dtype == "float16":
            self.scale = LossScale(**json.loads((folder / SCALE_STATE).read_text("utf-8")))
        self.best = load_file(folder / BEST_ADAPTER) if (folder / BEST_ADAPTER).exists() else None
