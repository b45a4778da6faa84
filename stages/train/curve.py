"""The loss curve: a row every few steps, kept through checkpoints, written as CSV, sent to MLflow, told on a terminal."""

import csv
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from stages.common.files import replacing

PLAIN_SECONDS = 15  # between two lines where no terminal shows a bar


@dataclass
class Row:
    """One row of reports/train.csv: what was seen since the row before it."""

    step: int  # optimizer steps done
    tokens: int  # trained on so far, prompts included
    epoch: float  # passes over the packs so far
    loss: (
        float | None
    )  # mean over the labelled tokens since the last row, in nats; None before the first step
    learning_rate: float  # of the step
    grad_norm: float | None  # of the step, before clipping
    tokens_per_second: float | None  # since the last row, validation left out
    validation_loss: float | None = None  # where measured


COLUMNS = [f.name for f in fields(Row)]


@dataclass
class Counts:
    """What has been trained on, all of it kept through a checkpoint."""

    packs: int = 0
    tokens: int = 0
    labelled: int = 0
    loss_sum: float = 0.0  # since the last row, summed over labelled tokens
    loss_tokens: int = 0  # labelled tokens since the last row
    row_tokens: int = 0  # tokens since the last row
    seconds: float = 0.0  # training, validation left out; over all runs of a resumed training
    row_seconds: float = 0.0  # since the last row


@dataclass
class Curve:
    """Counts and rows of a training; `listeners` are called with each new row."""

    rows: list[Row] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    listeners: list[Callable[[Row], None]] = field(default_factory=list)

    def add_micro_batch(self, loss_sum: float, tokens: int, labelled: int, packs: int) -> None:
        counts = self.counts
        counts.loss_sum += loss_sum
        counts.loss_tokens += labelled
        counts.labelled += labelled
        counts.row_tokens += tokens
        counts.tokens += tokens
        counts.packs += packs

    def add_seconds(self, seconds: float) -> None:
        self.counts.seconds += seconds
        self.counts.row_seconds += seconds

    def close_row(
        self,
        step: int,
        epoch: float,
        learning_rate: float,
        grad_norm: float | None,
        validation_loss: float | None = None,
    ) -> Row:
        """Make a row of what was counted since the last one."""
        c = self.counts
        row = Row(
            step=step,
            tokens=c.tokens,
            epoch=round(epoch, 4),
            loss=c.loss_sum / c.loss_tokens if c.loss_tokens else None,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_second=round(c.row_tokens / c.row_seconds, 1) if c.row_seconds else None,
            validation_loss=validation_loss,
        )
        c.loss_sum, c.loss_tokens, c.row_tokens, c.row_seconds = 0.0, 0, 0, 0.0
        self.rows.append(row)
        for listener in self.listeners:
            listener(row)
        return row

    def write_csv(self, path: str | Path) -> None:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)

    def save(self, path: Path) -> None:
        state = {"rows": [asdict(row) for row in self.rows], "counts": asdict(self.counts)}
        path.write_text(json.dumps(state), "utf-8")

    def load(self, path: Path) -> None:
        state = json.loads(path.read_text("utf-8"))
        self.rows = [Row(**row) for row in state["rows"]]
        self.counts = Counts(**state["counts"])


class Progress:
    """One bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, steps: int, done: int) -> None:
        from tqdm import tqdm

        self._steps, self._first, self._started, self._told = steps, done, time.monotonic(), 0.0
        self._bar = (
            tqdm(total=steps, initial=done, unit="step", desc="train") if sys.stderr.isatty() else None
        )

    def __call__(self, row: Row) -> None:
        loss = "" if row.loss is None else f"loss {row.loss:.3f}"
        held_out = "" if row.validation_loss is None else f"validation {row.validation_loss:.3f}"
        speed = "" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f} tokens/s"
        told = ", ".join(part for part in (loss, held_out, speed) if part)
        if self._bar is not None:
            self._bar.update(row.step - self._bar.n)
            self._bar.set_postfix_str(told)
            return
        now = time.monotonic()
        if (
            row.step in (0, self._steps)
            or row.validation_loss is not None
            or now - self._told > PLAIN_SECONDS
        ):
            self._told = now
            print(f"train: step {row.step}/{self._steps}, {told}{self._left(row.step, now)}", flush=True)

    def _left(self, step: int, now: float) -> str:
        if step <= self._first or step >= self._steps:
            return ""
        seconds = (now - self._started) / (step - self._first) * (self._steps - step)
        return f", {seconds / 60:.1f} min left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
