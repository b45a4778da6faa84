"""Experiments and plots as users see them: each parameter and curve once, within the width of a terminal."""

import csv
import io
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.sweep.compare import format_experiments, parse_experiments
from tests.helpers.tiny_project import REPOSITORY, Project

TERMINAL = 160
OBJECTIVE = "reports/evaluate/tuned.json:pass_at_1"
POINTS = {(8, 2e-4): 0.05, (16, 2e-4): 0.25, (8, 4e-4): 0.125}  # rank and learning rate: the tuned pass@1


def name(rank: int, rate: float) -> str:
    """Return the name that a sweep gives the point."""
    return f"rank-{rank}-learning_rate-{rate}-0f3a51c2"


@pytest.fixture(scope="module")
def sweep(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project, and experiments with the files that a sweep over two parameters leaves."""
    project = finished.copy(tmp_path_factory.mktemp("compare") / "project")
    for number, ((rank, rate), rate_passed) in enumerate(POINTS.items()):
        for path in ("params.yaml", "reports/config.yaml"):
            edit(project.root / path, {"train.lora.rank": rank, "train.learning_rate": rate})
        edit(project.root / "reports/evaluate/tuned.json", {"pass_at_1": rate_passed})
        edit(project.root / "reports/report.json", {"p": 0.5 / (1 + number)})
        edit(project.root / "reports/train.json", {"train_loss_last": 1.5 - number, "seconds": 9.0 + number})
        project.dvc("exp", "save", "-n", name(rank, rate))
    project.git("checkout", "-q", ".")
    return project


def edit(path: Path, values: dict[str, Any]) -> None:
    """Set dotted keys of a YAML or JSON file."""
    node = yaml.safe_load(path.read_text("utf-8"))
    for key, value in values.items():
        *parents, last = key.split(".")
        parent = node
        for part in parents:
            parent = parent[part]
        parent[last] = value
    text = json.dumps(node, indent=2) if path.suffix == ".json" else yaml.safe_dump(node, sort_keys=False)
    path.write_text(text, "utf-8")


@pytest.mark.slow
def test_the_table_has_scores_losses_and_swept_values_and_fits(sweep: Project) -> None:
    done = sweep.stage("sweep.compare")
    assert done.status == 0, done.text
    head, main, *points = done.out.splitlines()
    assert head.split() == ["experiment", "pass_at_1", "base", "p", "loss", "validation", "rank", "learning_rate"]  # fmt: skip
    assert main.split()[0] == "main"
    assert main.split()[-2:] == ["4", "0.01"]
    best, second, last = (line.split() for line in points)
    assert [line[0] for line in (best, second, last)] == [name(16, 2e-4), name(8, 4e-4), name(8, 2e-4)]
    assert (best[1], best[3], best[4], best[6:]) == ("0.25", "0.250", "0.5", ["16", "0.0002"])
    assert max(map(len, done.out.splitlines())) <= TERMINAL


def test_make_compare_prints_it() -> None:
    shown = subprocess.run(
        ["make", "-n", "compare", "COMPARE=-A"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "python -m stages.sweep.compare -A" in shown.stdout


def test_errors_of_dvc_exp_show_are_passed_on(sweep: Project) -> None:
    done = sweep.stage("sweep.compare", "--nonsense")
    assert done.status == 1
    assert done.err.startswith("error: `dvc exp show` failed: ERROR: unrecognized arguments: --nonsense")


@pytest.mark.slow
def test_dvc_exp_show_as_documented_has_every_parameter_once(sweep: Project) -> None:
    command = documented("docs/versions.md", "dvc exp show --only-changed --drop")
    shown = sweep.run("bash", "-c", f"{command} --csv", check=True).out
    columns, *rows = csv.reader(io.StringIO(shown))
    parameters = [column.rpartition(":")[2] for column in columns]
    assert len(parameters) == len(set(parameters))
    assert {"train.lora.rank", "train.learning_rate", "pass_at_1", "train_loss_last", "p"} <= set(parameters)
    assert len(rows) == 2 + len(POINTS)
    assert not [c for c in columns if re.match(r"models/|params.yaml|reports/[^:]*$", c)], "hashes of files"


def documented(path: str, start: str) -> str:
    """Return the only command of a document that starts with `start`."""
    lines = [line.strip() for line in (REPOSITORY / path).read_text("utf-8").splitlines()]
    [command] = [line.partition("  #")[0] for line in lines if line.startswith(start)]
    return command


def test_plots_show_each_curve_and_each_picture_once(sweep: Project) -> None:
    shown = json.loads(sweep.dvc("plots", "show", "--json").out)
    assert "errors" not in shown
    curves = [p["content"] for plots in shown["data"].values() for p in plots if p["type"] == "vega"]  # fmt: skip
    drawn = {curve["title"]: fields(curve) for curve in curves}
    assert drawn == {"loss": {"loss", "validation_loss"}, "learning rate": {"learning_rate"}}
    assert len(curves) == len(drawn)
    pictures = [path for path, plots in shown["data"].items() if plots[0]["type"] == "image"]
    assert {Path(path).stem for path in pictures} >= {"pass_at_1", "verdicts", "lengths", "packs"}
    assert not {Path(path).stem for path in pictures} & {"loss", "learning_rate"}, "DVC draws them"


def fields(curve: dict[str, Any]) -> set[str]:
    """Return the columns that a curve shows; check its axes, and that empty cells are not drawn as 0."""
    axes = curve["encoding"]
    assert axes["x"]["title"] == "optimizer step"
    assert axes["y"]["title"] in ("nats a token", "learning rate")
    field = axes["y"]["field"]
    assert curve["transform"] == [{"filter": {"not": {"field": field, "equal": ""}}}]
    points = [row for row in curve["data"]["values"] if row[field] != ""]
    assert len([float(row[field]) for row in points]) > 2
    return {row["field"] for row in points} if field == "dvc_inferred_y_value" else {field}


@pytest.mark.slow
def test_plots_of_two_experiments_are_overlaid(sweep: Project) -> None:
    first, second, _ = (name(*point) for point in POINTS)
    shown = json.loads(sweep.dvc("plots", "diff", first, second, "--json").out)
    for plots in shown["data"].values():
        revisions = Counter(revision for plot in plots for revision in plot["revisions"])
        assert revisions == {first: 1, second: 1}


def show_entry(
    name: str | None, rev: str, rank: int | None, score: float | None, **more: Any
) -> dict[str, Any]:
    """Return an entry of `dvc exp show --json`."""
    params = {"reports/config.yaml": {"data": {"train": {"lora": {"rank": rank}, "seed": 0}}}}
    metrics = {"reports/evaluate/tuned.json": {"data": {} if score is None else {"pass_at_1": score}}}
    data = {"params": params if rank else {}, "metrics": metrics}
    return {"rev": rev, "name": name, "data": data, **more}


def test_rows_without_results_come_last_and_a_changed_workspace_is_shown() -> None:
    point = [
        {
            "revs": [{"rev": "b" * 40, "name": None, "data": None, "error": {"msg": "broken"}}],
            "name": "failed",
        },
        {"revs": [show_entry(None, "c" * 40, 8, 0.25)], "name": "good"},
    ]
    head = show_entry("main", "a" * 40, 4, 0.5, experiments=point)
    old = show_entry(None, "0123456789", None, None, experiments=None)
    same = show_entry(None, "workspace", 4, 0.5, experiments=None)
    lines = [line.split() for line in format_experiments(parse_experiments([same, head, old]), OBJECTIVE)]
    assert [line[0] for line in lines] == ["experiment", "main", "good", "failed", "0123456"]
    assert [line[-1] for line in lines] == ["rank", "4", "8", "-", "-"]
    changed = show_entry(None, "workspace", 16, 0.5, experiments=None)
    assert format_experiments(parse_experiments([changed, head]), OBJECTIVE)[1].split()[0] == "workspace"


def test_the_lowest_loss_is_best() -> None:
    key = "reports/train.json:validation_loss_kept"
    points = []
    for name, loss in (("high", 2.0), ("low", 1.0)):
        one = show_entry(None, name, 4, None)
        one["data"]["metrics"]["reports/train.json"] = {"data": {"validation_loss_kept": loss}}
        points.append({"revs": [one], "name": name})
    head = show_entry("main", "a" * 40, 4, None, experiments=points)
    assert [
        line.split()[0] for line in format_experiments(parse_experiments([head]), key, "minimize")[2:]
    ] == ["low", "high"]


def test_ambiguous_parameters_keep_their_full_names_and_long_values_are_cut() -> None:
    def entry(seed: int, sources: list[str]) -> dict[str, Any]:
        config = {"train": {"seed": seed}, "pack": {"seed": seed}, "fetch": {"sources": sources}}
        data = {"params": {"reports/config.yaml": {"data": config}}, "metrics": {}}
        return {"rev": str(seed) * 40, "name": None, "data": data, "experiments": None}

    head, first, second = format_experiments(
        parse_experiments([entry(1, ["x" * 90]), entry(2, ["y"])]), OBJECTIVE
    )
    assert head.split()[-3:] == ["train.seed", "pack.seed", "sources"]
    assert first.endswith(f"['{'x' * 21}…")
    assert second.endswith("['y']")
