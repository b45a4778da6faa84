"""A small sweep's runs in an MLflow store, made in seconds from made-up reports."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.core.stage import Settings
from stages.common.statistics import wilson_interval
from stages.report import __main__ as report
from stages.report.settings import ReportSettings
from stages.sweep.mlflow_runs import open_run
from stages.sweep.spec import SweepSpec
from stages.track import __main__ as track
from stages.track.runs import SWEEP_RUN_VARIABLE, SWEEP_VARIABLE
from stages.track.settings import TrackSettings
from stages.track.store import open_store
from tests.helpers.report_files import evaluation, make_reports, metrics, problem_samples

NAME = "ranks"
PROBLEMS = 60
PASSED = {4: 11, 8: 14, 16: 19}  # problems that the tuned model solves, by rank; the base model solves 5
CURVE_STEPS = 48
EVERY = 6  # steps between two validation losses


def make_sweep(folder: Path, patch: pytest.MonkeyPatch) -> dict[int, str]:
    """Make a sweep over ranks, a parent run with a nested run per rank; return their names by rank."""
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    store = open_store(TrackSettings())
    patch.setenv(SWEEP_VARIABLE, NAME)
    patch.setenv(SWEEP_RUN_VARIABLE, parent := open_run(TrackSettings(), ranks_spec(folder)))
    names = {rank: f"rank-{rank}-0f3a51c2" for rank in PASSED}
    for rank, name in names.items():
        patch.chdir(make_point(folder / f".cache/sweep/{NAME}/{name}", rank))
        patch.setenv("DVC_EXP_NAME", name)
        values = report.main(Settings("report", {"report": ReportSettings()}))
        Path("reports/report.json").write_text(json.dumps(values), "utf-8")
        track.main(Settings("track", {"track": TrackSettings()}))
    store.client.set_terminated(parent)
    return names


def ranks_spec(folder: Path) -> SweepSpec:
    return SweepSpec(
        root=str(folder),
        commit="c" * 40,
        cache="",
        tracking_uri="",
        git_identity=(),
        fixed=(),
        name=NAME,
        objective="reports/evaluate/tuned.json:pass_at_1",
        tree="d" * 40,
    )


def make_point(folder: Path, rank: int) -> Path:
    """Write the files of a finished pipeline with this rank; the higher the rank, the lower the loss."""
    folder.mkdir(parents=True)
    reports = make_reports(folder) / "reports"
    config = yaml.safe_load((reports / "config.yaml").read_text("utf-8"))
    config["train"]["lora"]["rank"] = rank
    (reports / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    rows = curve_rows(rank)
    with (reports / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    validation_losses = [row["validation_loss"] for row in rows if row["validation_loss"] != ""]
    trained = {**metrics()["train"], "training_key": f"{rank:016x}", "steps": CURVE_STEPS}
    trained |= {
        "validation_loss_first": validation_losses[0],
        "validation_loss_kept": min(validation_losses),
        "validation_loss_last": validation_losses[-1],
    }
    (reports / "train.json").write_text(json.dumps(trained), "utf-8")
    for target, solved in (("base", 5), ("tuned", PASSED[rank])):
        samples = problem_samples(set(range(solved)), PROBLEMS)
        low, high = (round(end, 6) for end in wilson_interval(solved, PROBLEMS))
        scored = {
            **evaluation(samples, low, high, "A"),
            "pass_at_1": round(solved / PROBLEMS, 6),
            "truncated_share": 0.0,
        }
        (reports / f"evaluate/{target}.json").write_text(json.dumps(scored), "utf-8")
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (reports / f"evaluate/{target}/samples.jsonl").write_text(lines, "utf-8")
    return folder


def curve_rows(rank: int) -> list[dict[str, Any]]:
    """Return rows of train.csv: a warm-up and cosine schedule, and a noisy falling loss."""
    noise = random.Random(rank)
    floor = 1.05 - 0.08 * math.log2(rank)
    rows = []
    for step in range(1, CURVE_STEPS + 1):
        falling = floor + 0.95 * math.exp(-step / 12)
        rows.append(
            {
                "step": step,
                "tokens": 1900 * step,
                "epoch": round(step / 24, 4),
                "loss": round(falling + noise.gauss(0, 0.05), 6),
                "learning_rate": 3e-4 * min(step / 3, 0.5 + 0.5 * math.cos(math.pi * step / CURVE_STEPS)),
                "grad_norm": round(0.4 + 0.6 * math.exp(-step / 10) + noise.uniform(0, 0.1), 4),
                "tokens_per_second": round(noise.gauss(350, 8), 1),
                "share_of_peak": round(noise.gauss(0.53, 0.01), 4),
                "memory_mib": 3100,
                "validation_loss": round(falling + 0.06, 6) if step % EVERY == 0 else "",
            }
        )
    return rows
