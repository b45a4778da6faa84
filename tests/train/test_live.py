"""Progress of a training: the bar on a terminal, plain lines elsewhere, time left, the share of the peak."""

import csv
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from stages.common.core.files import sha256_folder
from stages.common.core.stage import Settings
from stages.common.curve import CURVE_FILE, MEASURED, CurveRow, read_curve
from stages.train.__main__ import ADAPTER, main
from stages.train.throughput import MeasuredPeak
from stages.train.training_curve import Counts, Curve
from stages.train.training_progress import (
    TrainingProgress,
    describe_row,
    format_bar,
    format_time_left,
    seconds_left,
    terminal_columns,
    validations_left,
)
from tests.helpers.tiny_project import REPOSITORY
from tests.helpers.train_workplace import TRACK, train_settings, workplace


def row(step: int, seconds: float = 2.0, validation: float | None = None) -> CurveRow:
    """A row of a training with 1,000 tokens a step."""
    return CurveRow(step, 1000 * step, step / 10, 1.25, 1e-4, 0.5, 1000 / seconds, 0.614, 4012.0, validation)


FIRST = CurveRow(0, 0, 0.0, None, 0.0, None, None, validation_loss=1.767)


def test_time_left_is_steps_at_the_usual_pace_and_the_validations_to_come() -> None:
    rows = [FIRST, row(1, seconds=150), *(row(step) for step in range(2, 31)), row(31, seconds=9)]
    counts = Counts(validations=2, validation_seconds=16.0)
    # 69 steps of 2 s, validation after 40, 60, 80 and 100; neither a compiling nor a saving step is the pace
    assert seconds_left(rows, counts, steps=100, done=0, every=20) == 69 * 2 + 4 * 8
    assert seconds_left(rows, counts, steps=100, done=0, every=0) == 69 * 2 + 8
    assert seconds_left(rows, counts, steps=31, done=0, every=20) is None
    assert seconds_left([FIRST], counts, steps=100, done=0, every=20) is None
    assert seconds_left([], Counts(), steps=100, done=0, every=20) is None


def test_a_while_in_which_others_use_the_machine_hardly_moves_the_time_left() -> None:
    rows = [FIRST, *(row(step) for step in range(1, 41)), *(row(step, seconds=18) for step in range(41, 61))]
    left = seconds_left(rows, Counts(), steps=160, done=0, every=0)
    assert left is not None
    assert 200 < left < 600, "not nine times the 200 s of before"


def test_a_step_without_a_row_of_its_own_counts_as_one() -> None:
    rows = [FIRST, *(row(step) for step in (5, 10, 15))]  # log_every 5
    rows = [FIRST, *(replace(r, tokens_per_second=5000 / 10) for r in rows[1:])]  # 10 s for five steps
    assert seconds_left(rows, Counts(), steps=20, done=0, every=0) == 5 * 2


def test_after_a_resume_the_pace_is_known_at_once_and_then_that_of_this_process() -> None:
    before = [FIRST, *(row(step) for step in range(1, 11))]
    assert seconds_left(before, Counts(), steps=30, done=10, every=0) == 20 * 2
    faster = [*before, *(row(step, seconds=1) for step in range(11, 16))]
    assert seconds_left(faster, Counts(), steps=30, done=10, every=0) == 15 * 1


@pytest.mark.parametrize(
    ("step", "steps", "every", "expected"),
    [(0, 10, 0, 1), (9, 10, 0, 1), (10, 10, 0, 0), (0, 10, 5, 2), (5, 10, 5, 1), (0, 11, 5, 3), (10, 11, 5, 1), (3, 4, 9, 1)],
)  # fmt: skip
def test_validations_left(step: int, steps: int, every: int, expected: int) -> None:
    assert validations_left(step, steps, every) == expected
    at = [s for s in range(step + 1, steps + 1) if s == steps or (every and s % every == 0)]
    assert len(at) == expected  # as the trainer decides


def test_durations() -> None:
    seconds = (0.4, 89, 91, 5399, 5400, 12000, 200000)
    assert [format_time_left(s) for s in seconds] == [
        "0 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "1 h 30 min",
        "3 h 20 min",
        "2 d 7 h",
    ]


def test_a_narrow_terminal_shows_loss_and_time_first() -> None:
    parts = describe_row(row(29), 0.88, 178.0)
    assert ", ".join(parts.values()) == (
        "loss 1.250, validation 0.880, 500 tokens/s, 61% of peak, 3.9 GiB, 3 min left"
    )
    shown = "loss 1.250, 500 tokens/s, 61% of peak, 3.9 GiB, 3 min left"
    assert format_bar(29, 63, parts, 119) == f"train 29/63 |{{bar}}| {', '.join(parts.values())}"
    assert format_bar(29, 63, parts, 79) == f"train 29/63 |{{bar}}| {shown}"
    assert format_bar(29, 63, parts, 72) == f"train 29/63 {shown}"
    assert format_bar(29, 63, parts, 50) == "train 29/63 loss 1.250, 500 tokens/s, 3 min left"
    assert format_bar(29, 63, parts, 40) == "train 29/63 loss 1.250, 3 min left"
    last = describe_row(row(63), 0.88, None)
    assert format_bar(63, 63, last, 79) == f"train 63/63 {', '.join(last.values())}"
    assert format_bar(0, 63, {}, 79) == "train 0/63 |{bar}| "
    assert describe_row(FIRST, None, None) == {}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], list[str]]]:
    """Makes stderr a terminal of so many columns; what it gives returns what each drawing left on the line."""

    def of(columns: int) -> Callable[[], list[str]]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(os.fdopen(theirs, "wb", 0), write_through=True))

        def drawn() -> list[str]:
            os.set_blocking(ours, False)
            text = ""
            try:
                while data := os.read(ours, 1 << 16):
                    text += data.decode()
            except BlockingIOError:
                lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
                return [line for line, _ in groupby(lines)]
            return []

        return drawn

    return of


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
def test_one_line_on_a_terminal(
    columns: int,
    terminal: Callable[[int], Callable[[], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stages.train.training_progress.DRAW_SECONDS", 0)
    drawn = terminal(columns)
    assert terminal_columns() == columns - 1
    curve = Curve()
    progress = TrainingProgress(curve, steps=3000, done=0, eval_every=0)
    for made in (replace(FIRST, memory_mib=3000.0), *(row(step) for step in range(1, 2901))):
        curve.rows.append(made)
        if made.step % 100 == 0:
            progress(made)
    curve.rows.append(row(3000, validation=0.88))
    progress(curve.rows[-1])
    progress.close()
    lines = drawn()
    assert max(map(len, lines)) < columns
    assert lines[0].startswith("train 0/3000 |")
    assert lines[-2].startswith("train 2900/3000 ")
    for part in ("loss 1.250", "3 min left"):
        assert part in lines[-2]
    assert ("61% of peak, 3.9 GiB" in lines[-2]) == (columns >= 80)
    assert ("validation 1.767" in lines[-2]) == (columns >= 100)
    assert lines[-1].startswith("train 3000/3000 ")
    assert "left" not in lines[-1]
    assert capsys.readouterr().out == ""


def test_plain_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    curve, now = Curve(), [100.0]
    monkeypatch.setattr("stages.train.training_progress.time.monotonic", lambda: now[0])
    progress = TrainingProgress(curve, steps=20, done=0, eval_every=10)
    for step in range(21):
        made = FIRST if not step else row(step, validation=0.9 if step in (10, 20) else None)
        curve.rows.append(made)
        progress(made)
        now[0] += 2
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "train: step 0 of 20, validation 1.767",
        "train: step 8 of 20, loss 1.250, 500 tokens/s, 61% of peak, 3.9 GiB, 24 s left",
        "train: step 10 of 20, loss 1.250, validation 0.900, 500 tokens/s, 61% of peak, 3.9 GiB, 20 s left",
        "train: step 18 of 20, loss 1.250, 500 tokens/s, 61% of peak, 3.9 GiB, 4 s left",
        "train: step 20 of 20, loss 1.250, validation 0.900, 500 tokens/s, 61% of peak, 3.9 GiB",
    ]


def test_messages_in_between_stand_on_lines_of_their_own(
    terminal: Callable[[int], Callable[[], list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = terminal(100)
    curve = Curve(rows=[FIRST, row(1), row(2, validation=1.8)])
    progress = TrainingProgress(curve, steps=20, done=0, eval_every=2)
    progress(curve.rows[-1])
    tqdm.write("train: 2 validation losses without improvement", file=sys.stderr)
    progress.close()
    lines = drawn()
    assert "train: 2 validation losses without improvement" in lines
    assert lines[-1].startswith("train 2/20 |")
    assert "loss 1.250" in lines[-1]


def test_share_of_peak_is_useful_operations_over_those_of_a_product_in_the_same_time(tmp_path: Path) -> None:
    operations = lambda lengths, labelled: 1e6 * sum(lengths)  # noqa: E731
    curve = Curve(peak=MeasuredPeak(1e9, operations, lambda: 0.0))
    add_micro_batch(curve, (100, 150))
    add_micro_batch(curve, (50,))
    curve.add_seconds(0.5)
    first = curve.close_row(1, 0.5, 1e-3, 1.0)
    assert (first.share_of_peak, first.tokens_per_second) == (0.6, 600)
    assert first.memory_mib is not None
    assert 10 < first.memory_mib < 100_000
    curve.save(tmp_path / "curve.json")
    resumed = Curve(peak=MeasuredPeak(3e9, operations, lambda: 0.0))  # on a machine three times as fast
    resumed.load(tmp_path / "curve.json")
    add_micro_batch(resumed, (600,))
    resumed.add_seconds(0.5)
    assert resumed.close_row(2, 1.0, 1e-3, 1.0).share_of_peak == 0.4
    assert resumed.counts.operations / resumed.counts.possible == 900e6 / 2000e6
    assert resumed.rows[0] == first


def add_micro_batch(curve: Curve, lengths: tuple[int, ...]) -> None:
    """Count one micro batch as the trainer does."""
    curve.add_micro_batch(8.0, sum(lengths), 40, 1, curve.operations(lengths, 40))


def test_without_a_measured_rate_there_is_no_share() -> None:
    curve = Curve()
    add_micro_batch(curve, (100,))
    curve.add_seconds(1.0)
    assert curve.close_row(1, 0.1, 1e-3, 1.0).share_of_peak is None
    curve.correct_peak()


def test_a_peak_that_a_row_exceeds_is_measured_again() -> None:
    """Measured while others used the machine: half of what it is."""
    measured: list[float] = []

    def again() -> float:
        measured.append(2e9)
        return measured[-1]

    curve = Curve(peak=MeasuredPeak(1e9, lambda lengths, labelled: 1e6 * sum(lengths), again))
    shares = []
    for step in (1, 2, 3):
        add_micro_batch(curve, (800,))
        curve.add_seconds(0.5)
        shares.append(curve.close_row(step, 0.1, 1e-3, 1.0).share_of_peak)
        curve.correct_peak()
    assert shares == [1.6, 0.8, 0.8]
    assert measured == [2e9]
    assert curve.times()["share_of_peak"] == 0.8, "of all rows, the first included"


@pytest.mark.slow
def test_measuring_the_machine_changes_no_byte_of_the_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace(tmp_path / "place", tiny_model))
    settings = train_settings(dropout=0.2, max_steps=3).train
    seen = []
    for seconds in (0.0, 0.01):
        sections = {"train": settings, "track": replace(TRACK, peak_seconds=seconds)}
        metrics = main(Settings("train", sections))
        seen.append(sha256_folder(ADAPTER))
        with CURVE_FILE.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert not set(rows[0]) & set(MEASURED)
        times = metrics["times"]
        assert [bool(r["share_of_peak"]) for r in times["curve"]] == [False, *[seconds > 0] * 3]
        assert (times["share_of_peak"] is None) == (times["gemm_gflops"] is None) == (not seconds)
    assert seen[0] == seen[1]
    shares = [row["share_of_peak"] for row in times["curve"][1:]]
    assert 0 <= min(shares) <= times["share_of_peak"] <= max(shares) < 1
    assert times["gemm_gflops"] > 0
    assert times["curve"][-1]["memory_mib"] > 100


@pytest.mark.slow
def test_a_training_that_was_interrupted_is_one_run_that_equals_its_file(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.track.complete_run import curve_matches
    from stages.track.run_contents import curve_points
    from stages.track.store import curve_history, open_store
    from stages.train import trainer

    root = workplace(tmp_path / "place", tiny_model)
    (root / "reports").mkdir()
    (root / "reports/config.yaml").write_text("train: {epochs: 2.0}\n", "utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # The sender imports MLflow first, which takes a while beside other tests
    monkeypatch.setattr("stages.common.tracking.CLOSE_SECONDS", 500.0)
    track = replace(TRACK, live=True, peak_seconds=0.01, uri="sqlite:///mlflow.db", system_seconds=0.5)
    settings = Settings("train", {"train": train_settings().train, "track": track})

    def interrupt(self: Any) -> None:
        original(self)
        if self.step == 8:  # the last checkpoint is of step 6
            raise KeyboardInterrupt

    original = trainer.PackTrainer.end_step
    monkeypatch.setattr(trainer.PackTrainer, "end_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(settings)
    monkeypatch.setattr(trainer.PackTrainer, "end_step", original)
    store = open_store(track)
    (killed,) = store.client.search_runs([store.experiment_id])
    assert (killed.info.status, len(curve_history(store, killed)["train/loss"])) == ("KILLED", 8)
    metrics = main(settings)
    (run,) = store.client.search_runs([store.experiment_id])
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "FINISHED")
    points = curve_points(read_curve(CURVE_FILE), metrics["times"]["curve"])
    assert curve_matches(store, run, SimpleNamespace(curve=points))
    sent = {(key, step) for key, steps in curve_history(store, run).items() for step in steps}
    assert sent == {(p.name, p.step) for p in points}
    assert ("by_tokens/loss", metrics["tokens_trained"]) in sent
