"""The loss curve while a model trains: counts and rows, saved in checkpoints, written as CSV, passed to listeners."""

import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.common.core.files import atomic_write
from stages.common.curve import CURVE_COLUMNS, MEASURED, CurveRow
from stages.train.footprint import memory_mib
from stages.train.throughput import MeasuredPeak


@dataclass
class Counts:
    """Totals of a training, saved in every checkpoint; `row_*`, `loss_*`: since the last row."""

    packs: int = 0
    tokens: int = 0
    labelled: int = 0
    # summed over labelled tokens
    loss_sum: float = 0.0
    # labelled tokens, each with the weight of its source
    loss_tokens: float = 0
    row_tokens: int = 0
    # spent training, validation excluded, over all runs of a resumed training
    seconds: float = 0.0
    row_seconds: float = 0.0
    # useful floating-point operations
    operations: float = 0.0
    row_operations: float = 0.0
    # operations that matrix products would do in `seconds`, at the rate measured in each run
    possible: float = 0.0
    row_possible: float = 0.0
    validations: int = 0
    # of all validations
    validation_seconds: float = 0.0


@dataclass
class Curve:
    """Counts and rows of a training; `listeners` are called with each new row."""

    rows: list[CurveRow] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    listeners: list[Callable[[CurveRow], None]] = field(default_factory=list)
    # None: rows get no share of the peak
    peak: MeasuredPeak | None = None
    # times that the peak may be measured again
    measurements: int = 3

    def operations(self, lengths: Sequence[int], labelled: int) -> float:
        """Count the useful operations of training on documents of these lengths; 0 where no peak was measured."""
        return self.peak.operations(lengths, labelled) if self.peak else 0.0

    def add_micro_batch(
        self,
        loss_sum: float,
        tokens: int,
        labelled: int,
        packs: int,
        operations: float = 0.0,
        weight: float | None = None,
    ) -> None:
        """Count a step; `weight` is that of all its labelled tokens, None: 1 each."""
        counts = self.counts
        counts.loss_sum += loss_sum
        counts.loss_tokens += labelled if weight is None else weight
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
        if self.peak:
            counts.possible += seconds * self.peak.rate
            counts.row_possible += seconds * self.peak.rate

    def timed(self, validate: Callable[[], float | None]) -> Callable[[], float | None]:
        """Return `validate` wrapped so that its calls and their time are counted."""

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
        """Append a row with what was counted since the last one, and pass it to the listeners."""
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

    def correct_peak(self) -> None:
        """Measure the peak again where the last row is beyond it: another program slowed its measurement down."""
        if self.peak is None or not self.measurements or (self.rows[-1].share_of_peak or 0) <= 1:
            return
        self.measurements -= 1
        rate = max(self.peak.rate, self.peak.again())
        self.counts.possible *= rate / self.peak.rate  # earlier rows were held against the wrong peak too
        self.peak = replace(self.peak, rate=rate)

    def write_csv(self, path: str | Path) -> None:
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)

    def times(self) -> dict[str, Any]:
        """Return what differs from run to run: speed of the whole training, speed and memory of each row."""
        counts = self.counts
        return {
            "tokens_per_second": round(counts.tokens / counts.seconds, 1) if counts.seconds else None,
            "share_of_peak": peak_share(counts.operations, counts.possible),
            "gemm_gflops": round(counts.possible / counts.seconds / 1e9, 1) if counts.possible else None,
            "curve": [{name: asdict(row)[name] for name in ("step", *MEASURED)} for row in self.rows],
        }

    def save(self, path: Path) -> None:
        state = {"rows": [asdict(row) for row in self.rows], "counts": asdict(self.counts)}
        path.write_text(json.dumps(state), "utf-8")

    def load(self, path: Path) -> None:
        state = json.loads(path.read_text("utf-8"))
        self.rows = [CurveRow(**row) for row in state["rows"]]
        self.counts = Counts(**state["counts"])


def peak_share(operations: float, possible: float) -> float | None:
    """Return the share of the peak; None where either was not measured."""
    return round(operations / possible, 4) if operations and possible else None
