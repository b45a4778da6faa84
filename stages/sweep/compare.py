"""Print the experiments side by side, best first, in the columns that matter for a choice.

    python -m stages.sweep.compare        # `make compare`; options are those of `dvc exp show`: -A, -n 3, ...

`dvc exp show` lists every metric and parameter of all stages, and those of params.yaml a second time for
reports/config.yaml. Here a parameter has one column, named without its file, and only if it differs between the
rows.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from stages.common.core.errors import UserError
from stages.common.core.stage import COMPOSED_CONFIG
from stages.common.git import dvc_command
from stages.sweep.comparisons import short_keys
from stages.sweep.settings import SweepSettings
from stages.sweep.summary_table import align_columns, format_p
from stages.track.run_contents import is_number

BASE_PASS_AT_1 = "reports/evaluate/base.json:pass_at_1"
P_VALUE = "reports/report.json:p"
LOSS_COLUMNS = {
    "loss": "reports/train.json:train_loss_last",
    "validation": "reports/train.json:validation_loss_kept",
}
EMPTY_CELL = "-"
WORKSPACE = "workspace"  # DVC's name for the files as they are
MAX_VALUE_WIDTH = 24  # characters of a parameter's value


@dataclass(frozen=True)
class ExperimentRow:
    """A commit or an experiment: its parameters by dotted name, its metrics by file, colon, dotted name."""

    name: str
    commit: bool
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]


def dotted_items(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and values of a nested mapping."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from dotted_items(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def parse_experiments(shown: Sequence[Mapping[str, Any]]) -> list[list[ExperimentRow]]:
    """Return the rows of each commit in `dvc exp show --json`: the commit itself, then its experiments.

    The first entry is the workspace. It is left out if it equals the next one, the checked-out commit.
    """
    groups = [
        [
            experiment_row(commit, commit=True),
            *(experiment_row(e["revs"][0], e["name"]) for e in commit.get("experiments") or []),
        ]
        for commit in shown
    ]
    same = len(groups) > 1 and replace(groups[0][0], name=groups[1][0].name) == groups[1][0]
    return groups[1:] if same else groups


def experiment_row(entry: Mapping[str, Any], name: str = "", commit: bool = False) -> ExperimentRow:
    data = entry.get("data") or {}  # none if DVC could not read it
    metrics = {
        f"{file}:{key}": value
        for file, content in data.get("metrics", {}).items()
        for key, value in dotted_items(content.get("data"))
    }
    config = data.get("params", {}).get(str(COMPOSED_CONFIG), {}).get("data")
    params = dict(dotted_items(config)) if config else {}
    rev = entry["rev"] if entry["rev"] == WORKSPACE else entry["rev"][:7]
    return ExperimentRow(name or entry.get("name") or rev, commit, params, metrics)


def differing_params(rows: Sequence[ExperimentRow]) -> list[str]:
    """Return the parameters that differ between the rows that have a configuration, in its order."""
    configs = [row.params for row in rows if row.params]
    names = dict.fromkeys(name for params in configs for name in params)
    return [name for name in names if any(params.get(name) != configs[0].get(name) for params in configs)]


def format_experiments(
    groups: Sequence[Sequence[ExperimentRow]], objective: str, direction: str = "maximize"
) -> list[str]:
    """Return the table's lines: each commit, then its experiments, best first, those without an objective last."""
    rows = [row for group in groups for row in group]
    params = differing_params(rows)
    key = objective.rpartition(":")[2]
    lines = [["experiment", key, "base", "p", *LOSS_COLUMNS, *short_keys(params).values()]]
    for commit, *experiments in groups:
        lines.append(row_cells(commit, objective, params))
        ranked = rank_rows(experiments, objective, direction)
        lines += [row_cells(row, objective, params) for row in ranked]
    return align_columns(lines)


def rank_rows(rows: Sequence[ExperimentRow], objective: str, direction: str) -> list[ExperimentRow]:
    sign = 1 if direction == "minimize" else -1

    def rank(row: ExperimentRow) -> tuple[bool, float]:
        value = row.metrics.get(objective)
        return (False, sign * float(value or 0)) if is_number(value) else (True, 0.0)

    return sorted(rows, key=rank)


def row_cells(row: ExperimentRow, objective: str, params: Sequence[str]) -> list[str]:
    scores = [format_cell(row.metrics.get(key)) for key in (objective, BASE_PASS_AT_1)]
    p = format_p(row.metrics.get(P_VALUE))
    losses = [format_cell(row.metrics.get(key)) for key in LOSS_COLUMNS.values()]
    values = [cut_value(row.params.get(name)) for name in params]
    return [row.name if row.commit else f"  {row.name}", *scores, p, *losses, *values]


def cut_value(value: Any) -> str:
    """Return a parameter's value as text, cut if it is long (such as a list of sources)."""
    text = EMPTY_CELL if value is None else str(value)
    return text if len(text) <= MAX_VALUE_WIDTH else f"{text[: MAX_VALUE_WIDTH - 1]}…"


def format_cell(value: Any) -> str:
    return f"{value:.4g}" if is_number(value) else EMPTY_CELL


def run_exp_show(options: Sequence[str]) -> list[dict[str, Any]]:
    """Return the output of `dvc exp show --json`.

    Raises:
        UserError: it failed; has its message.
    """
    command = dvc_command("exp", "show", "--json", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc exp show` failed: {done.stderr.strip()}")
    shown: list[dict[str, Any]] = json.loads(done.stdout)
    return shown


def read_objective() -> tuple[str, str]:
    """Return the objective and direction that a sweep with the current configuration would have."""
    config = (yaml.safe_load(COMPOSED_CONFIG.read_text("utf-8")) if COMPOSED_CONFIG.exists() else {}) or {}
    section, default = config.get("sweep", {}), SweepSettings()
    return section.get("objective", default.objective), section.get("direction", default.direction)


if __name__ == "__main__":
    try:
        experiments = parse_experiments(run_exp_show(sys.argv[1:]))
        print("\n".join(format_experiments(experiments, *read_objective())))
    except UserError as error:
        sys.exit(f"error: {error}")
