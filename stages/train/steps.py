"""Work between optimizer steps: rows of the curve, validation losses, early stopping and the best adapter."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback

from stages.common.core.errors import UserError
from stages.train.best import best_step, evaluations_since_improvement
from stages.train.settings import TrainSettings

if TYPE_CHECKING:
    from stages.train.trainer import PackTrainer

Validate = Callable[[], float | None]


class StepCallback(TrainerCallback):
    """Close rows of the curve, measure validation losses and time, stop early, keep the best adapter."""

    def __init__(
        self, trainer: "PackTrainer", settings: TrainSettings, packs: int, validate: Validate
    ) -> None:
        self.trainer, self.curve, self.settings = trainer, trainer.curve, settings
        self.packs, self.validate = packs, validate
        self.started = self.learning_rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.save_steps = args.save_steps  # a checkpoint brings those of its own run
        if state.global_step == 0:
            loss = self.validate()
            if loss is None and (self.settings.keep_best or self.settings.early_stopping_patience):
                raise UserError(
                    "train.keep_best and train.early_stopping_patience compare validation losses, and no token of the "
                    "validation packs within train.eval_tokens has a label. Raise train.eval_tokens, or drop the keys."
                )
            if loss is not None and not math.isfinite(loss):
                raise UserError(self.trainer.describe_divergence("the validation loss is not finite"))
            self.curve.close_row(0, 0.0, 0.0, None, loss)
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.learning_rate = float(self.trainer._get_learning_rate())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.curve.add_seconds(now - self.started)
        step, last = state.global_step, state.global_step >= state.max_steps
        every = self.settings.eval_every
        is_validated = last or (every > 0 and step % every == 0)
        if is_validated or step % self.settings.log_every == 0:
            loss = self.validate() if is_validated else None
            epoch = self.curve.counts.packs / self.packs
            self.curve.close_row(step, epoch, self.learning_rate, self.trainer.grad_norm, loss)
            self.curve.correct_peak()
            if loss is not None:
                self.act_on_validation(loss, step, last, control)
        self.started = time.perf_counter()

    def act_on_validation(self, loss: float, step: int, last: bool, control: Any) -> None:
        """Keep the adapter if its validation loss is the lowest; stop early where it has not improved for long.

        Every decision here follows from the rows of the curve, which a checkpoint holds.
        """
        trainer, patience = self.trainer, self.settings.early_stopping_patience
        if not math.isfinite(loss):
            raise UserError(trainer.describe_divergence("the validation loss is not finite", step))
        if self.settings.keep_best and best_step(self.curve.rows) == step:
            trainer.best = trainer.copy_adapter()
        passed = evaluations_since_improvement(self.curve.rows, self.settings.early_stopping_min_delta)
        if patience and passed >= patience and not last:
            trainer.stopped_early = control.should_training_stop = True
            # A run resumed from a checkpoint of this step would train one more; from an earlier one it stops here
            control.should_save = False
            if trainer.is_world_process_zero():
                message = (
                    f"train: stopped early after step {step}: {passed} validation losses without improvement"
                )
                tqdm.write(message)  # above the bar, where there is one

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the best adapter in place of the last one, where it is kept."""
        from peft import set_peft_model_state_dict

        if self.settings.keep_best and self.trainer.best is not None:
            set_peft_model_state_dict(self.trainer.model.model, self.trainer.best)
        self.trainer.refuse_broken_weights()
