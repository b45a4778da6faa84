"""Show a training's progress: a bar that stays in place on a terminal, elsewhere a plain line now and then."""

import os
import sys
import time
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

from stages.common.curve import CurveRow
from stages.train.training_curve import Counts, Curve

PLAIN_SECONDS = 15.0  # between plain lines, where there is no terminal
DRAW_SECONDS = 0.1  # between redraws of the bar
RESUMED_ROWS = 20  # of a checkpoint, from which the pace is computed at first
MIN_BAR_COLUMNS = 6
# What the bar's line shows as far as there is room, most important first
BAR_PRIORITY = ("loss", "left", "speed", "share", "memory", "validation", "bar")


class TrainingProgress:
    """A curve's listener that shows loss, tokens per second, share of the peak, memory and time left.

    Args:
        curve: rows and counts, including those of a resumed checkpoint.
        steps: of the whole training.
        done: steps done when this process starts.
        eval_every: steps between validations; 0: only after the last step.
    """

    def __init__(self, curve: Curve, steps: int, done: int, eval_every: int) -> None:
        self._curve, self._steps, self._done, self._every = curve, steps, done, eval_every
        self._shown_at = 0.0
        self._validation: float | None = None
        if curve.peak:
            rate = f"{curve.peak.rate / 1e9:,.0f} GFLOP/s"
            print(f"train: {steps} steps; a matrix product reaches {rate} here (100% of peak)", flush=True)
        self._bar: Any = new_bar(steps, done) if sys.stderr.isatty() else None

    def __call__(self, row: CurveRow) -> None:
        if row.validation_loss is not None:
            self._validation = row.validation_loss
        now = time.monotonic()
        is_important = row.step in (0, self._steps) or row.validation_loss is not None
        interval = PLAIN_SECONDS if self._bar is None else DRAW_SECONDS
        if not is_important and now - self._shown_at < interval:
            return
        self._shown_at = now
        left = seconds_left(self._curve.rows, self._curve.counts, self._steps, self._done, self._every)
        if self._bar is None:
            parts = describe_row(row, row.validation_loss, left)
            print(", ".join([f"train: step {row.step} of {self._steps}", *parts.values()]), flush=True)
        else:
            parts = describe_row(row, self._validation, left)
            self._bar.n, self._bar.ncols = row.step, terminal_columns()
            self._bar.bar_format = format_bar(row.step, self._steps, parts, self._bar.ncols)
            self._bar.refresh()

    def close(self) -> None:
        """End the bar's line, wherever the training stopped."""
        if self._bar is not None:
            self._bar.close()


def new_bar(steps: int, done: int) -> Any:
    from tqdm import tqdm

    columns = terminal_columns()
    parts = {} if done else {"validation": "validating the untrained model"}
    return tqdm(total=steps, initial=done, bar_format=format_bar(done, steps, parts, columns), ncols=columns)


def terminal_columns() -> int:
    """Return the columns that may be written; the last one stays free, since some terminals wrap at it."""
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except OSError:
        return 79


def describe_row(row: CurveRow, validation: float | None, left: float | None) -> dict[str, str]:
    """Return the texts shown for a row, by name, in display order; without what was not measured."""
    parts = {
        "loss": row.loss is not None and f"loss {row.loss:.3f}",
        "validation": validation is not None and f"validation {validation:.3f}",
        "speed": row.tokens_per_second is not None and f"{row.tokens_per_second:,.0f} tokens/s",
        "share": row.share_of_peak is not None and f"{row.share_of_peak:.0%} of peak",
        "memory": row.memory_mib is not None and f"{row.memory_mib / 1024:.1f} GiB",
        "left": left is not None and f"{format_time_left(left)} left",
    }
    return {name: text for name, text in parts.items() if text}


def format_bar(step: int, steps: int, parts: dict[str, str], columns: int) -> str:
    """Return tqdm's bar_format, with `{bar}` in it; drop the least important parts to fit into `columns`."""
    head = f"train {step}/{steps} "
    kept: set[str] = set()
    for name in BAR_PRIORITY:
        tried = kept | {name}
        bar = (MIN_BAR_COLUMNS + 3) * ("bar" in tried)
        if len(head) + bar + len(join_parts(parts, tried)) <= columns:
            kept = tried
    return head + ("|{bar}| " if "bar" in kept else "") + join_parts(parts, kept)


def join_parts(parts: dict[str, str], kept: Container[str]) -> str:
    return ", ".join(text for name, text in parts.items() if name in kept)


def seconds_left(rows: Sequence[CurveRow], counts: Counts, steps: int, done: int, every: int) -> float | None:
    """Estimate the time left: remaining steps at the recent pace, remaining validations at their mean time.

    The pace is the mean of the middle half of all rows of this process: a first step that compiles, one that wrote a
    checkpoint, or a while in which others use the machine, hardly moves it. Right after a resume it comes from the
    checkpoint's last rows.
    Return None before anything was measured, and after the last step.
    """
    if not rows or rows[-1].step >= steps:
        return None
    since_start = [row for row in rows if row.step >= done]
    seconds = sorted(step_seconds(since_start if len(since_start) > 3 else rows[-RESUMED_ROWS - 1 :]))
    if not seconds:
        return None
    step, middle = rows[-1].step, seconds[len(seconds) // 4 : len(seconds) - len(seconds) // 4]
    validation = counts.validation_seconds / counts.validations if counts.validations else 0.0
    return (steps - step) * sum(middle) / len(middle) + validations_left(step, steps, every) * validation


def step_seconds(rows: Sequence[CurveRow]) -> list[float]:
    """Return the seconds per step of each row except the first, validation excluded."""
    return [
        (row.tokens - before.tokens) / row.tokens_per_second / (row.step - before.step)
        for before, row in pairwise(rows)
        if row.tokens_per_second and row.step > before.step
    ]


def validations_left(step: int, steps: int, every: int) -> int:
    """Count the validations after `step`: at each multiple of `every` (0: none), and after the last step."""
    if step >= steps:
        return 0
    return (steps // every - step // every if every else 0) + (not every or steps % every > 0)


def format_time_left(seconds: float) -> str:
    """Format seconds as `45 s`, `12 min`, `3 h 20 min` or `2 d 5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
