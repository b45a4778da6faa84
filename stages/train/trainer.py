"""transformers' Trainer with this project's loss, checkpoints and curve."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.common.core.errors import UserError
from stages.common.core.files import remove
from stages.common.model.loss import labelled_targets
from stages.common.model.packed_model import PackedModel
from stages.common.model.trained import ADAPTER_WEIGHTS
from stages.train.checkpoints import (
    INCOMPLETE,
    is_disk_failure,
    last_checkpoint,
    publish_checkpoint,
    remove_other_checkpoints,
    resume_message,
)
from stages.train.fsdp import is_sharded, wrap_in_ddp
from stages.train.lora_adapter import parameter_groups, save_adapter
from stages.train.neftune import EmbeddingNoise
from stages.train.optimizers import make_optimizer, make_scheduler
from stages.train.ranks import MicroBatches, micro_batch_seed
from stages.train.schedule import OrderedPacks
from stages.train.settings import TrainSettings
from stages.train.training_curve import Curve

CURVE_STATE = "curve.json"
BROKEN_BASE = (
    "the base gives values that are not finite. Its weight files may be damaged, or too large for train.dtype. "
    "Run `dvc repro -f -s base`, try train.dtype=float32, or choose another base."
)
BEST_ADAPTER = "best.safetensors"  # in a checkpoint: the adapter of the lowest validation loss so far


def training_arguments(settings: TrainSettings, scratch: Path) -> TrainingArguments:
    """Return the Trainer's arguments; our callback validates, our curve reports, our functions make the optimizer."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,  # the pack order holds all epochs
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.accumulation,
        max_grad_norm=settings.max_grad_norm,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 1,
        save_total_limit=None,  # remove_other_checkpoints does it
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),  # several processes then communicate through gloo
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        seed=settings.seed,
        data_seed=settings.seed,
    )
    # A single process uses one GPU even where there are several; train.launcher=accelerate uses more
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class PackTrainer(Trainer):
    """Trains a `PackedModel` on packs in a fixed order.

    A step's gradient is that of the mean loss over all its labelled tokens, however they are divided into micro
    batches and ranks.
    """

    optimizer: Any
    lr_scheduler: Any
    loss_is_scaled_for_ga = True  # by compute_loss: the Trainer must not divide by the micro batches again

    def __init__(
        self,
        model: PackedModel,
        packs: OrderedPacks,
        settings: TrainSettings,
        scratch: Path,
        curve: Curve,
    ) -> None:
        super().__init__(
            model=model,
            args=training_arguments(settings, scratch),
            train_dataset=packs,
        )
        self.batches = MicroBatches(
            packs,
            settings.micro_batch,
            settings.accumulation,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.args.gradient_accumulation_steps = self.batches.rounds
        # This rank's totals of the current step: loss summed over labelled tokens, tokens, labelled tokens, packs, operations
        self.step_totals = torch.zeros(5, dtype=torch.float64, device=self.args.device)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labelled tokens of a whole step
        self.settings, self.curve = settings, curve
        self.noise: EmbeddingNoise | None = None
        if settings.neftune_alpha:
            self.noise = EmbeddingNoise(model.causal.get_input_embeddings(), settings.neftune_alpha)
        self.best: dict[str, torch.Tensor] | None = None  # the adapter of the lowest validation loss
        self.stopped_early = False
        self.grad_norm: float | None = None
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Return this rank's micro batches; accelerate must not divide them again."""
        return DataLoader(self.batches, batch_size=1, collate_fn=only_row, num_workers=0)  # type: ignore[arg-type]

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Wrap a sharded model in our DDP: accelerate's would send all its tensors to all ranks."""
        if training and is_sharded(model):
            return wrap_in_ddp(model)
        return super()._wrap_model(model, training, dataloader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(self.model if model is None else model, self.settings)
            self.optimizer = make_optimizer(self.settings, groups)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = make_scheduler(self.settings, optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return this micro batch's share of the step's mean loss."""
        inputs = dict(inputs)
        packs, number = inputs.pop("packs"), inputs.pop("number")
        torch.manual_seed(micro_batch_seed(self.args.seed, number))
        if self.noise is not None:
            self.noise.lengths = inputs["lengths"]
        summed = model(**inputs)
        if packs:
            labels, lengths = len(labelled_targets(inputs["labels"])[1]), inputs["lengths"]
            counts = [sum(lengths), labels, packs, self.curve.operations(lengths, labels)]
            self.step_totals[0] += summed.detach()
            self.step_totals[1:] += torch.tensor(counts, dtype=torch.float64).to(self.step_totals.device)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return summed / max(int(num_items_in_batch), 1) * ranks

    def count_step(self) -> None:
        """Sum the step's totals over all ranks and add them to the curve, before the optimizer steps.

        Raises:
            UserError: the loss is not finite (on every rank).
        """
        loss, tokens, labels, packs, operations = self.accelerator.reduce(self.step_totals, "sum").tolist()
        self.step_totals.zero_()
        if not math.isfinite(loss):
            raise UserError(self.describe_divergence("the loss is not finite"))
        self.curve.add_micro_batch(loss, int(tokens), int(labels), int(packs), operations)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        self.count_step()
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm = float(norm)
        if not math.isfinite(self.grad_norm):
            raise UserError(self.describe_divergence("the gradient is not finite"))
        return norm

    def describe_divergence(self, what: str, step: int | None = None) -> str:
        """Return the error message for a training that diverged."""
        scratch = Path(self.args.output_dir)
        if step is None and self.state.global_step == 0:  # no update was made yet
            return f"step 1: {what} before any update: {BROKEN_BASE}"
        kept = f" The last checkpoint stays in {scratch}." if last_checkpoint(scratch) else ""
        return (
            f"step {step or self.state.global_step + 1}: {what}; no adapter was written. "
            f"Lower train.learning_rate, raise train.warmup, or set train.max_grad_norm.{kept}"
        )

    def refuse_broken_weights(self) -> None:
        """Raise UserError if a value of the adapter is not finite: such an adapter is never written."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if not all(torch.stack([torch.isfinite(p).all() for p in trained]).tolist()):
            message = self.describe_divergence("the adapter's weights are not finite", self.state.global_step)
            raise UserError(message)

    def copy_adapter(self) -> dict[str, torch.Tensor]:
        """Copy the adapter to host memory, under the names that peft saves."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self.accelerator.unwrap_model(self.model).model)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint aside and rename it, so that it is complete or absent. Only the first rank writes."""
        self.refuse_broken_weights()
        scratch = Path(self.args.output_dir)
        incomplete, name = scratch / INCOMPLETE, f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            remove(incomplete)  # left by a run that was killed while writing
        try:
            self._write_checkpoint(model, trial, incomplete)
            if self.args.should_save:
                publish_checkpoint(incomplete / name, scratch / name)
        except Exception as error:
            if not is_disk_failure(error):
                raise
            remove(incomplete)
            raise UserError(
                f"step {self.state.global_step}: the checkpoint cannot be written, the disk is full or fails "
                f"({error}). Free space and rerun the command. {resume_message(scratch)}"
            ) from error
        if self.args.should_save:
            remove_other_checkpoints(scratch, scratch / name)

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any, folder: Path) -> None:
        scratch, self.args.output_dir = self.args.output_dir, str(folder)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = scratch
        if self.args.should_save:
            written = folder / f"checkpoint-{self.state.global_step}"
            self.curve.save(written / CURVE_STATE)
            if self.best is not None:
                save_file(self.best, written / BEST_ADAPTER)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save nothing: random draws follow from the seed and the micro batch's number."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.accelerator.unwrap_model(self.model).model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from peft import set_peft_model_state_dict

        folder = Path(resume_from_checkpoint)
        set_peft_model_state_dict(self.model.model, load_file(folder / ADAPTER_WEIGHTS))
        self.curve.load(folder / CURVE_STATE)
        self.best = load_file(folder / BEST_ADAPTER) if (folder / BEST_ADAPTER).exists() else None


def only_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return rows[0]
