"""What a training tells while it runs: one line on a terminal that stays in its place, elsewhere a plain line now and then."""

import os
import sys
import time
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

from stages.common.curve import CurveRow
from stages.train.training_curve import Counts, Curve

PLAIN_SECONDS = 15.0  # between two lines where no terminal shows a bar
DRAW_SECONDS = 0.1  # between two drawings of the bar
RECENT_ROWS = 20  # rows that the pace is taken from
MIN_BAR_COLUMNS = 6  # columns of the bar at least
# what a line holds as far as there is room, most wanted first
BAR_PRIORITY = ("loss", "left", "speed", "share", "memory", "validation", "bar")


class TrainingProgress:
    """A listener of a curve: loss, tokens a second, share of the peak, memory, time left.

    Args:
        curve: rows and counts, those of a checkpoint that is resumed included.
        steps: of the whole training.
        done: of them, when this process begins.
        eval_every: steps between validations; 0: none before the last.
    """

    def __init__(self, curve: Curve, steps: int, done: int, eval_every: int) -> None:
        self._curve, self._steps, self._done, self._every = curve, steps, done, eval_every
        self._told = 0.0
        self._validation: float | None = None
        if curve.machine:
            rate = f"{curve.machine.rate / 1e9:,.0f} GFLOP/s"
            print(f"train: {steps} steps; the peak is {rate}, measured on a matrix product", flush=True)
        self._bar: Any = new_bar(steps, done) if sys.stderr.isatty() else None

    def __call__(self, row: CurveRow) -> None:
        if row.validation_loss is not None:
            self._validation = row.validation_loss
        now = time.monotonic()
        asked = row.step in (0, self._steps) or row.validation_loss is not None
        if not asked and now - self._told < (PLAIN_SECONDS if self._bar is None else DRAW_SECONDS):
            return
        self._told = now
        left = seconds_left(self._curve.rows, self._curve.counts, self._steps, self._done, self._every)
        if self._bar is None:
            said = describe_row(row, row.validation_loss, left)
            print(", ".join([f"train: step {row.step} of {self._steps}", *said.values()]), flush=True)
        else:
            said = describe_row(row, self._validation, left)
            self._bar.n, self._bar.ncols = row.step, terminal_columns()
            self._bar.bar_format = format_bar(row.step, self._steps, said, self._bar.ncols)
            self._bar.refresh()

    def close(self) -> None:
        """End the line, wherever the training ended."""
        if self._bar is not None:
            self._bar.close()


def new_bar(steps: int, done: int) -> Any:
    from tqdm import tqdm

    columns = terminal_columns()
    said = {} if done else {"validation": "validation comes first"}
    return tqdm(total=steps, initial=done, bar_format=format_bar(done, steps, said, columns), ncols=columns)


def terminal_columns() -> int:
    """Columns that may be written to; the last one stays free, since some terminals wrap at it."""
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except OSError:
        return 79


def describe_row(row: CurveRow, validation: float | None, left: float | None) -> dict[str, str]:
    """What is said of a row, in the order in which it is said; what was not measured is left out."""
    said = {
        "loss": row.loss is not None and f"loss {row.loss:.3f}",
        "validation": validation is not None and f"validation {validation:.3f}",
        "speed": row.tokens_per_second is not None and f"{row.tokens_per_second:,.0f} tokens/s",
        "share": row.share_of_peak is not None and f"{row.share_of_peak:.0%} of peak",
        "memory": row.memory_mib is not None and f"{row.memory_mib / 1024:.1f} GiB",
        "left": left is not None and f"{format_time_left(left)} left",
    }
    return {name: text for name, text in said.items() if text}


def format_bar(step: int, steps: int, said: dict[str, str], columns: int) -> str:
    """What tqdm draws, `{bar}` in it; without what matters least where not all fits into `columns`."""
    head = f"train {step}/{steps} "
    kept: set[str] = set()
    for name in BAR_PRIORITY:
        tried = kept | {name}
        bar = (MIN_BAR_COLUMNS + 3) * ("bar" in tried)
        if len(head) + bar + len(join_parts(said, tried)) <= columns:
            kept = tried
    return head + ("|{bar}| " if "bar" in kept else "") + join_parts(said, kept)


def join_parts(said: dict[str, str], kept: Container[str]) -> str:
    return ", ".join(text for name, text in said.items() if name in kept)


def seconds_left(rows: Sequence[CurveRow], counts: Counts, steps: int, done: int, every: int) -> float | None:
    """Steps at the recent pace, and the validations that are still to come at their mean time.

    The pace is the mean of the middle half of the last rows: a first step that compiles, or one that wrote a
    checkpoint, moves it little. Right after a resume it is the pace of the rows that the checkpoint brought.
    None before anything was measured, and when nothing is left.
    """
    if not rows or rows[-1].step >= steps:
        return None
    recent = rows[-RECENT_ROWS - 1 :]
    own = [row for row in recent if row.step >= done]
    seen = sorted(step_seconds(own if len(own) > 3 else recent))
    if not seen:
        return None
    step, middle = rows[-1].step, seen[len(seen) // 4 : len(seen) - len(seen) // 4]
    each = counts.validation_seconds / counts.validations if counts.validations else 0.0
    return (steps - step) * sum(middle) / len(middle) + validations_left(step, steps, every) * each


def step_seconds(rows: Sequence[CurveRow]) -> list[float]:
    """Seconds a step of each row but the first, validation left out."""
    return [
        (row.tokens - before.tokens) / row.tokens_per_second / (row.step - before.step)
        for before, row in pairwise(rows)
        if row.tokens_per_second and row.step > before.step
    ]


def validations_left(step: int, steps: int, every: int) -> int:
    """Validations after `step`: at each multiple of `every` (0: none), and after the last step."""
    if step >= steps:
        return 0
    return (steps // every - step // every if every else 0) + (not every or steps % every > 0)


def format_time_left(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
