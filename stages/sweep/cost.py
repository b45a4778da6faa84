"""What a sweep will cost, said before it starts: the stages that each point has to run, by their last time here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.common.core.files import read_metrics
from stages.common.core.stage import COMPOSED_CONFIG
from stages.common.page.formats import format_duration
from stages.config.compose import plain_values

FEW_STEPS = 20  # fewer optimizer steps teach nothing that a score could show


def describe_cost(points: Sequence[Mapping[str, Any]], count: int) -> str:
    """Return a line on the time that the points will take, one after another.

    Args:
        points: the typed sections of each point; of a study, one for all.
        count: points in all.
    """
    seconds = [point_seconds(sections) for sections in points]
    known = [value for value in seconds if value is not None]
    line = f"sweep: {count} point{'s' * (count != 1)}"
    if len(known) < len(seconds):
        line += "; no run here has been timed, so the cost is not known (`dvc repro` first)"
    else:
        each, total = max(known), sum(known) * count / len(known)
        line += f", up to {format_duration(each)} each by the last run here, {format_duration(total)} in all"
    steps = [sections["train"].max_steps for sections in points]
    if all(0 < value < FEW_STEPS for value in steps):
        line += (
            f".\nEvery point trains {max(steps)} steps only (train.max_steps): enough to see that a sweep runs, "
            "not to compare its points"
        )
    return f"{line}."


def point_seconds(sections: Mapping[str, Any]) -> float | None:
    """Return the seconds of the stages that a point's settings rerun; None if one was never timed here."""
    if not COMPOSED_CONFIG.exists():
        return None
    composed = yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8")) or {}
    changed = {name for name, section in sections.items() if plain_values(section) != composed.get(name)}
    total = 0.0
    for metrics in rerun_metrics(yaml.safe_load(Path("dvc.yaml").read_text("utf-8"))["stages"], changed):
        found = read_metrics(metrics) if metrics.exists() else {}
        if "seconds" not in found:
            return None
        planned, done = sections["train"].max_steps, found.get("steps", 0)
        total += found["seconds"] * (planned / done if 0 < planned < done else 1)
    return total


def rerun_metrics(stages: Mapping[str, Any], changed: set[str]) -> list[Path]:
    """Return the metrics files of the stages that run where these sections of the configuration differ.

    A stage runs if it reads one of them, or reads an output of a stage that runs.
    """
    written, metrics = {str(COMPOSED_CONFIG)} if changed else set(), []
    for entry in expanded_stages(stages):
        read = {name for item in entry.get("params", []) for name in item[str(COMPOSED_CONFIG)]}
        needed = set(entry.get("deps", [])) - {str(COMPOSED_CONFIG)}
        if read & changed or needed & written:
            made = [
                next(iter(o)) if isinstance(o, dict) else o
                for k in ("outs", "metrics")
                for o in entry.get(k, [])
            ]
            written |= set(made)
            metrics += [
                Path(path) for path in made if path.endswith(".json") and path != "reports/mlflow.json"
            ]
    return metrics


def expanded_stages(stages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages of dvc.yaml in its order, those of a `foreach` one by one."""
    found = []
    for stage in stages.values():
        for key, item in stage.get("foreach", {"": ""}).items():
            text = yaml.safe_dump(stage.get("do", stage)).replace("${key}", key).replace("${item}", item)
            found.append(yaml.safe_load(text))
    return found
