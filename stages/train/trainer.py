"""transformers' Trainer with this project's loss, checkpoints and curve."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.common.errors import UserError
from stages.common.loss import labelled
from stages.common.packs import flatten
from stages.train.adapter import WEIGHTS, save_adapter
from stages.train.checkpoints import INCOMPLETE, keep_only
from stages.train.curve import Curve
from stages.train.plan import PlannedPacks
from stages.train.settings import TrainSettings

CURVE = "curve.json"
SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
Validate = Callable[[], float | None]


def training_arguments(settings: TrainSettings, scratch: Path) -> TrainingArguments:
    """What the Trainer is told; logging and validation are done by our callback, reporting by our curve."""
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,  # the plan holds all epochs
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.accumulation,
        optim="adamw_torch",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULERS[settings.schedule],
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 1,
        save_total_limit=None,  # keep_only does it
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        seed=settings.seed,
        data_seed=settings.seed,
    )


class PackTrainer(Trainer):
    """Trains a `PackedModel` on planned packs.

    The gradient of a step is that of the mean loss over all labelled tokens of the step, however they fall into micro
    batches and ranks.
    """

    loss_is_scaled_for_ga = True  # by compute_loss: the Trainer must not divide by the micro batches again

    def __init__(
        self,
        model: torch.nn.Module,
        packs: PlannedPacks,
        settings: TrainSettings,
        scratch: Path,
        curve: Curve,
    ) -> None:
        super().__init__(
            model=model,
            args=training_arguments(settings, scratch),
            train_dataset=packs,
            data_collator=flatten_with_count,
        )
        self.model_accepts_loss_kwargs = True  # so that the labelled tokens of a whole step are counted
        self.curve = curve
        self.grad_norm: float | None = None
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro batch's share of the step's mean loss."""
        inputs = dict(inputs)
        packs = inputs.pop("packs")
        summed = model(**inputs)
        if not torch.isfinite(summed):
            raise UserError(self.broken("the loss is not finite"))
        count = len(labelled(inputs["labels"])[1])
        operations = self.curve.operations(inputs["lengths"], count)
        self.curve.add_micro_batch(summed.item(), inputs["input_ids"].numel(), count, packs, operations)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return summed / max(int(num_items_in_batch), 1) * ranks

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm = float(norm)
        if not math.isfinite(self.grad_norm):
            raise UserError(self.broken("the gradient is not finite"))
        return norm

    def broken(self, what: str) -> str:
        kept = f" The checkpoint before it stays in {self.args.output_dir}." if self.state.global_step else ""
        return (
            f"step {self.state.global_step + 1}: {what}. Lower train.learning_rate, raise train.warmup, or set "
            f"train.max_grad_norm; no adapter was written.{kept}"
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write aside and rename: a checkpoint that is there is complete."""
        scratch = Path(self.args.output_dir)
        aside, name = scratch / INCOMPLETE, f"checkpoint-{self.state.global_step}"
        self.args.output_dir = str(aside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(scratch)
        self.curve.save(aside / name / CURVE)
        os.replace(aside / name, scratch / name)
        keep_only(scratch, scratch / name)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.accelerator.unwrap_model(self.model).model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        folder = Path(resume_from_checkpoint)
        set_peft_model_state_dict(self.model.model, load_file(folder / WEIGHTS))
        self.curve.load(folder / CURVE)


def flatten_with_count(packs: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    return {**flatten(packs), "packs": len(packs)}


class StepCallback(TrainerCallback):
    """Closes rows of the curve, measures the validation loss, keeps the time."""

    def __init__(self, trainer: PackTrainer, settings: TrainSettings, packs: int, validate: Validate) -> None:
        self.trainer, self.curve, self.settings = trainer, trainer.curve, settings
        self.packs, self.validate = packs, validate
        self.started = self.learning_rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.curve.close_row(0, 0.0, 0.0, None, self.validate())
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.learning_rate = float(self.trainer._get_learning_rate())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.curve.add_seconds(now - self.started)
        step, last = state.global_step, state.global_step >= state.max_steps
        every = self.settings.eval_every
        measure = last or (every > 0 and step % every == 0)
        if measure or step % self.settings.log_every == 0:
            loss = self.validate() if measure else None
            epoch = self.curve.counts.packs / self.packs
            self.curve.close_row(step, epoch, self.learning_rate, self.trainer.grad_norm, loss)
        self.started = time.perf_counter()
