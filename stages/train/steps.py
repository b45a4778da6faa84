"""What is done between the steps of a training: rows of the curve, validation losses, and what follows from them."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback

from stages.common.errors import UserError
from stages.train.best import best_step, evaluations_since_improvement
from stages.train.settings import TrainSettings

if TYPE_CHECKING:
    from stages.train.trainer import PackTrainer

Validate = Callable[[], float | None]


class StepCallback(TrainerCallback):
    """Closes rows of the curve, measures the validation loss, keeps the time."""

    def __init__(
        self, trainer: "PackTrainer", settings: TrainSettings, packs: int, validate: Validate
    ) -> None:
        self.trainer, self.curve, self.settings = trainer, trainer.curve, settings
        self.packs, self.validate = packs, validate
        self.started = self.learning_rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            loss = self.validate()
            if loss is None and (self.settings.keep_best or self.settings.early_stopping_patience):
                raise UserError(
                    "train.keep_best and train.early_stopping_patience compare validation losses, and no token of the "
                    "validation packs that train.eval_tokens takes has a label. Raise it, or leave the keys away."
                )
            self.curve.close_row(0, 0.0, 0.0, None, loss)
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
            if loss is not None:
                self.judge(loss, step, last, control)
        self.started = time.perf_counter()

    def judge(self, loss: float, step: int, last: bool, control: Any) -> None:
        """Keep the adapter where its validation loss is the lowest; end where none has been lower for long.

        All that is decided here follows from the rows of the curve, which a checkpoint holds.
        """
        trainer, patience = self.trainer, self.settings.early_stopping_patience
        if not math.isfinite(loss):
            raise UserError(trainer.broken("the validation loss is not finite", step))
        if self.settings.keep_best and best_step(self.curve.rows) == step:
            trainer.best = trainer.adapter()
        passed = evaluations_since_improvement(self.curve.rows, self.settings.early_stopping_min_delta)
        if patience and passed >= patience and not last:
            trainer.stopped_early = control.should_training_stop = True
            # a run that goes on from here would train a step more; one that goes on from before stops here again
            control.should_save = False
            if trainer.is_world_process_zero():
                told = f"train: ended early after step {step}: {passed} validation losses without improvement"
                tqdm.write(told)  # above the bar, where there is one

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The adapter that is kept takes the place of the last one."""
        from peft import set_peft_model_state_dict

        if self.settings.keep_best and self.trainer.best is not None:
            set_peft_model_state_dict(self.trainer.model.model, self.trainer.best)
        self.trainer.refuse_broken_weights()
