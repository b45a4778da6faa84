"""The loss curve: a row every few steps, kept through checkpoints, written as CSV, sent to MLflow, told on a terminal."""

import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.common.curve import CURVE_COLUMNS, CurveRow
from stages.common.files import replacing
from stages.train.throughput import MeasuredPeak, memory_mib


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
    operations: float = 0.0  # useful ones
    row_operations: float = 0.0  # since the last row
    possible: float = 0.0  # operations of matrix products in `seconds`, at the rate measured in each run
    row_possible: float = 0.0  # since the last row
    validations: int = 0
    validation_seconds: float = 0.0  # of all validations


@dataclass
class Curve:
    """Counts and rows of a training; `listeners` are called with each new row."""

    rows: list[CurveRow] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    listeners: list[Callable[[CurveRow], None]] = field(default_factory=list)
    machine: MeasuredPeak | None = None  # None: no share of the peak

    def operations(self, lengths: Sequence[int], labelled: int) -> float:
        """Useful ones of a pass over documents of these lengths; 0 where their number is not known."""
        return self.machine.operations(lengths, labelled) if self.machine and self.machine.operations else 0.0

    def add_micro_batch(
        self, loss_sum: float, tokens: int, labelled: int, packs: int, operations: float = 0.0
    ) -> None:
        counts = self.counts
        counts.loss_sum += loss_sum
        counts.loss_tokens += labelled
        counts.labelled += labelled
        counts.row_tokens += tokens
        counts.tokens += tokens
        counts.packs += packs
        counts.operations += operations
        counts.row_operations += operations

    def add_seconds(self, seconds: float) -> None:
        counts = self.counts
        counts.seconds += seconds
        counts.row_seconds += seconds
        if self.machine:
            counts.possible += seconds * self.machine.rate
            counts.row_possible += seconds * self.machine.rate

    def timed(self, validate: Callable[[], float | None]) -> Callable[[], float | None]:
        """`validate`, with its time counted."""

        def validate_and_count() -> float | None:
            started = time.perf_counter()
            loss = validate()
            self.counts.validation_seconds += time.perf_counter() - started
            self.counts.validations += 1
            return loss

        return validate_and_count

    def close_row(
        self,
        step: int,
        epoch: float,
        learning_rate: float,
        grad_norm: float | None,
        validation_loss: float | None = None,
    ) -> CurveRow:
        """Make a row of what was counted since the last one."""
        c = self.counts
        row = CurveRow(
            step=step,
            tokens=c.tokens,
            epoch=round(epoch, 4),
            loss=c.loss_sum / c.loss_tokens if c.loss_tokens else None,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_second=round(c.row_tokens / c.row_seconds, 1) if c.row_seconds else None,
            share_of_peak=peak_share(c.row_operations, c.row_possible),
            memory_mib=memory_mib(),
            validation_loss=validation_loss,
        )
        c.loss_sum, c.loss_tokens, c.row_tokens, c.row_seconds = 0.0, 0, 0, 0.0
        c.row_operations = c.row_possible = 0.0
        self.rows.append(row)
        for listener in self.listeners:
            listener(row)
        return row

    def write_csv(self, path: str | Path) -> None:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)

    def save(self, path: Path) -> None:
        state = {"rows": [asdict(row) for row in self.rows], "counts": asdict(self.counts)}
        path.write_text(json.dumps(state), "utf-8")

    def load(self, path: Path) -> None:
        state = json.loads(path.read_text("utf-8"))
        self.rows = [CurveRow(**row) for row in state["rows"]]
        self.counts = Counts(**state["counts"])


def peak_share(operations: float, possible: float) -> float | None:
    """Of the peak; None where either was not measured."""
    return round(operations / possible, 4) if operations and possible else None
