"""The experiments side by side, best first, in the columns that one decides by.

    python -m stages.sweep.compare        # what `make compare` runs; --all-commits, -A, -n 3, ...: as `dvc exp show` takes them

`dvc exp show` lists every metric and parameter of all stages, and what stands in params.yaml a second time for reports/config.yaml.
Here a parameter has one column, named without its file, and only where it differs between the rows.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from stages.common.errors import UserError
from stages.common.git import dvc
from stages.sweep.comparisons import short_keys
from stages.sweep.settings import SweepSettings
from stages.sweep.summary_table import aligned, told_p
from stages.track.run_contents import is_number

CONFIG = "reports/config.yaml"
BASE = "reports/evaluate/base.json:pass_at_1"
P = "reports/report.json:p"
LOSSES = {
    "loss": "reports/train.json:train_loss_last",
    "validation": "reports/train.json:validation_loss_kept",
}
NOTHING = "-"
WORKSPACE = "workspace"  # what DVC calls the files as they are
WIDTH = 24  # characters of a parameter's value


@dataclass(frozen=True)
class Row:
    """A commit or an experiment: its parameters by dotted name, its metrics by file, colon, dotted name."""

    name: str
    commit: bool
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def read(shown: Sequence[Mapping[str, Any]]) -> list[list[Row]]:
    """Rows of each commit that `dvc exp show --json` tells of: itself, then its experiments.

    The first is the workspace; it is left out where it is what the next one, the commit that is checked out, says.
    """
    groups = [
        [row(commit, commit=True), *(row(e["revs"][0], e["name"]) for e in commit.get("experiments") or [])]
        for commit in shown
    ]
    same = len(groups) > 1 and replace(groups[0][0], name=groups[1][0].name) == groups[1][0]
    return groups[1:] if same else groups


def row(told: Mapping[str, Any], name: str = "", commit: bool = False) -> Row:
    data = told.get("data") or {}  # none where DVC could not read it
    metrics = {
        f"{file}:{key}": value
        for file, content in data.get("metrics", {}).items()
        for key, value in flat(content.get("data"))
    }
    config = data.get("params", {}).get(CONFIG, {}).get("data")
    params = dict(flat(config)) if config else {}
    rev = told["rev"] if told["rev"] == WORKSPACE else told["rev"][:7]
    return Row(name or told.get("name") or rev, commit, params, metrics)


def differing(rows: Sequence[Row]) -> list[str]:
    """Parameters that are not the same in all rows that have a configuration, in its order."""
    told = [row.params for row in rows if row.params]
    names = dict.fromkeys(name for params in told for name in params)
    return [name for name in names if any(params.get(name) != told[0].get(name) for params in told)]


def table(groups: Sequence[Sequence[Row]], objective: str, direction: str = "maximize") -> list[str]:
    """Lines: every commit, its experiments below it, the best objective first, those without one last."""
    rows = [row for group in groups for row in group]
    params = differing(rows)
    head = ["experiment", objective.rpartition(":")[2], "base", "p", *LOSSES, *short_keys(params).values()]
    lines = [head]
    for commit, *experiments in groups:
        lines.append(cells(commit, objective, params))
        lines += [cells(row, objective, params) for row in ranked(experiments, objective, direction)]
    return aligned(lines)


def ranked(rows: Sequence[Row], objective: str, direction: str) -> list[Row]:
    sign = 1 if direction == "minimize" else -1

    def key(row: Row) -> tuple[bool, float]:
        value = row.metrics.get(objective)
        return (False, sign * float(value or 0)) if is_number(value) else (True, 0.0)

    return sorted(rows, key=key)


def cells(row: Row, objective: str, params: Sequence[str]) -> list[str]:
    measured = [number(row.metrics.get(key)) for key in (objective, BASE)]
    p = row.metrics.get(P)
    losses = [number(row.metrics.get(key)) for key in LOSSES.values()]
    chosen = [cut(row.params.get(name)) for name in params]
    return [row.name if row.commit else f"  {row.name}", *measured, told_p(p), *losses, *chosen]


def cut(value: Any) -> str:
    """A parameter's value; of a long one (a list of sources) the beginning."""
    text = NOTHING if value is None else str(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def number(value: Any) -> str:
    return f"{value:.4g}" if is_number(value) else NOTHING


def shown(options: Sequence[str]) -> list[dict[str, Any]]:
    """What `dvc exp show --json` says.

    Raises:
        UserError: it failed; with what it says.
    """
    done = subprocess.run(dvc("exp", "show", "--json", *options), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc exp show` failed: {done.stderr.strip()}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def wanted() -> tuple[str, str]:
    """Objective and direction of the composed configuration, as a sweep has them."""
    config, default = Path(CONFIG), SweepSettings()
    told = ((yaml.safe_load(config.read_text("utf-8")) if config.exists() else {}) or {}).get("sweep", {})
    return told.get("objective", default.objective), told.get("direction", default.direction)


if __name__ == "__main__":
    try:
        print("\n".join(table(read(shown(sys.argv[1:])), *wanted())))
    except UserError as error:
        sys.exit(f"error: {error}")
