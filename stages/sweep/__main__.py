"""Run a sweep: each point of a Hydra multirun becomes a DVC experiment and an MLflow run.

    python -m stages.sweep -m train.lora.rank=4,8,16
    python -m stages.sweep -m train.lora.rank=4,8 hydra/launcher=joblib hydra.launcher.n_jobs=2

Each point runs in a clone of what is on disk when the sweep starts, edits included. Your working tree is not
touched, so you may edit it meanwhile. All clones share DVC's cache: work that points have in common is done
once. The sweep ends with a table on the terminal, and with reports/sweeps/<name>/index.html and sweep.csv.
`dvc exp apply NAME` adopts a point.

Rerun the same command to resume a killed sweep.
"""

import fcntl
import importlib.util
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.core.config_sections import check_overrides
from stages.common.core.errors import UserError
from stages.common.core.files import remove
from stages.common.core.stage import MULTIRUN, errors_as_message, run_with_hydra
from stages.common.page.formats import format_duration
from stages.config.compose import register_params, validate_config
from stages.sweep.cost import describe_cost
from stages.sweep.mlflow_runs import close_run, open_run
from stages.sweep.point import PointOutcome, run_point
from stages.sweep.point_slots import count_slots, hold_slot, usable_cores
from stages.sweep.points_table import format_table
from stages.sweep.results import gather_sweep
from stages.sweep.spec import (
    SWEEP_SCRATCH,
    SweepSpec,
    chosen_sweeper,
    dvc_params,
    is_swept,
    pin_sweep,
    point_name,
    point_overrides,
    swept_values,
)
from stages.sweep.study import claim_study_folder, make_watcher
from stages.sweep.words import describe_sweep, list_cautions, objective_format, objective_name
from stages.track.store import store_uri

SWEEP_REPORTS = Path("reports/sweeps")
TERMINAL_WIDTH = 100
NO_RESULT = "no result: the point was killed or is still running. Rerun the same command to complete it."
# Command-line choice -> the module that it needs, and the extra of pyproject.toml that installs it
PLUGIN_EXTRAS = {
    "launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "launcher=ray": ("ray", "ray"),
    "sweeper=tpe": ("optuna", "optuna"),
}


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a not in MULTIRUN]
    with errors_as_message("sweep"):
        register_params(Path("params.yaml"))
        if any(a.startswith("-") for a in arguments):  # --help, --cfg job: Hydra answers, nothing runs
            run_with_hydra("sweep", lambda config: None, Path("conf"), "params")
            return
        check_extras(arguments)
        overrides = check_overrides(arguments)
        points, sections = check_points(overrides)
        sweep, track = sections[-1]["sweep"], sections[-1]["track"]
        spec = pin_sweep(Path.cwd(), overrides, sweep, store_uri(track), len(points))
        print(describe_cost(sections, count_planned(overrides, len(points))), flush=True)
        with exclusive_sweep(spec, [o for o in overrides if is_swept(o)]):
            spec = replace(spec, run_id=open_run(track, spec))
            sys.argv[1:] = [
                "hydra.mode=MULTIRUN",
                f"hydra.sweep.dir={SWEEP_SCRATCH}/hydra/{spec.name}",
                *arguments,
            ]
            try:
                run_with_hydra("sweep", partial(run_hydra_job, spec), Path("conf"), "params")
            finally:  # the launcher also gives up when one of its jobs is killed
                if outcomes := read_outcomes(spec, points):
                    finish_sweep(spec, track, outcomes)
    sys.exit(any(outcome.status == "failed" for outcome in outcomes))


def check_extras(arguments: Sequence[str]) -> None:
    """Raise UserError if a launcher or sweeper needs a package that is not installed."""
    for argument in arguments:
        module, extra = PLUGIN_EXTRAS.get(argument.removeprefix("hydra/"), ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise UserError(
                f"{argument} needs {module}, which is not installed. "
                f"Install it: .venv/bin/pip install -e '.[{extra}]'"
            )


def check_points(overrides: Sequence[str]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Compose and validate every point before anything is cloned.

    A sweeper other than Hydra's own chooses its points later, and each is checked when its job starts. Here such
    a sweep counts as one point, without the swept keys.

    Returns:
        The overrides and the typed sections of each point.

    Raises:
        UserError: a key, value or group of a point is wrong, or cannot be set in params.yaml.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        own = parser.parse_overrides([o for o in overrides if not o.lstrip("+~").startswith("hydra")])
        if chosen_sweeper(overrides) == "tpe":
            check_search_space([o for o in own if o.is_sweep_override()])
        if chosen_sweeper(overrides) != "basic":
            own = [o for o in own if not o.is_sweep_override()]
        points = BasicSweeper.split_arguments(own, None)[0]
        sections = [validate_config(compose("params", overrides=point)) for point in points]
        for point in points:
            dvc_params(point_overrides(point), Path("params.yaml"))
    return points, sections


def count_planned(overrides: Sequence[str], points: int) -> int:
    """Return how many points the sweep will have: a grid's, or the trials of a study."""
    if chosen_sweeper(overrides) == "basic":
        return points
    from hydra_plugins.codetune.tpe import TpeConf

    given = [o.partition("=")[2] for o in overrides if o.startswith("hydra.sweeper.trials=")]
    return int(given[-1]) if given and given[-1].isdigit() else TpeConf.trials


def check_search_space(overrides: Sequence[Any]) -> None:
    """Raise UserError if Optuna cannot draw values for one of the swept overrides."""
    from hydra_plugins.codetune.tpe import distribution

    for override in overrides:
        distribution(override)


def run_hydra_job(spec: SweepSpec, config: Any) -> float:
    """Run one Hydra job and return its objective.

    NaN for a point that failed or was pruned: an exception would end the other points too.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    overrides = point_overrides(hydra.overrides.task)
    name = point_name(spec, overrides)
    # hydra/sweeper=tpe starts at most `at_once` points together
    points = hydra.sweeper.get("at_once", spec.points)
    slots = count_slots(count_launched(hydra), points, spec.at_once, len(spec.gpus), len(usable_cores()) or 1)
    slot = (
        nullcontext()
        if has_scheduler(hydra)
        else hold_slot(Path(spec.root) / SWEEP_SCRATCH / "slots", slots, spec.gpus)
    )
    with slot:
        place = f"[{hydra.job.num + 1} of {hydra.sweeper.get('trials', spec.points)}] {name}"
        print(f"{place}: started (log: {spec.folder.relative_to(spec.root)}/{name}.log)", flush=True)
        outcome = run_point(spec, hydra.job.num, name, overrides, config, make_watcher(spec, hydra))
    print(f"{place}: {describe_end(spec, outcome)}", flush=True)
    if outcome.error:
        print(outcome.error, file=sys.stderr, flush=True)
    return math.nan if outcome.objective is None else outcome.objective


def count_launched(hydra: Any) -> int:
    """Return how many jobs the launcher runs at the same time; 0: all of them."""
    launcher = hydra.runtime.choices["hydra/launcher"]
    if launcher == "basic":
        return 1
    jobs = hydra.launcher.get("n_jobs") or 0
    return jobs if jobs >= 0 else max(1, len(usable_cores()) + 1 + jobs)


def has_scheduler(hydra: Any) -> bool:
    """Whether a scheduler assigns GPUs and cores to jobs: Slurm, or a Ray cluster not started by this sweep."""
    launcher = hydra.runtime.choices["hydra/launcher"]
    return launcher == "submitit_slurm" or (launcher == "ray" and bool(hydra.launcher.address))


@contextmanager
def exclusive_sweep(spec: SweepSpec, space: Sequence[str]) -> Iterator[None]:
    """Lock the sweep's folder against a second run of the same sweep, and remove old outcomes.

    A study keeps them, because it continues.

    Raises:
        UserError: the sweep is already running, or its name belongs to a different study.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    with (spec.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"sweep '{spec.name}' is already running (logs in {spec.folder}). "
                "Wait for it to end, or give this one another name with sweep.name."
            ) from None
        if not (spec.study and claim_study_folder(spec.folder, spec, space)):
            for old in spec.folder.glob("*.json"):
                remove(old)
        yield


def read_outcomes(spec: SweepSpec, points: Sequence[Sequence[str]]) -> list[PointOutcome]:
    """Read how the points ended, in the sweep's order; empty if no point left an outcome.

    A point of a grid that left none counts as failed.
    """
    outcomes = [PointOutcome(**json.loads(path.read_text("utf-8"))) for path in spec.folder.glob("*.json")]
    if outcomes and not spec.study:
        names = {outcome.name for outcome in outcomes}
        for number, overrides in enumerate(map(point_overrides, points)):
            if (name := point_name(spec, overrides)) not in names:
                values = swept_values(spec, overrides)
                outcomes.append(PointOutcome(number, name, "failed", None, 0, NO_RESULT, overrides=values))
    return sorted(outcomes, key=lambda outcome: outcome.number)


def describe_end(spec: SweepSpec, outcome: PointOutcome) -> str:
    """Return `pass@1 4.9%, ran 6 stages, 18 min 3 s`."""
    took = f"{outcome.status}, {format_duration(outcome.seconds)}"
    if outcome.objective is None:
        return took
    score = objective_format(spec.objective)(outcome.objective)
    return f"{objective_name(spec.objective)} {score}, {took}"


def finish_sweep(spec: SweepSpec, track: Any, outcomes: Sequence[PointOutcome]) -> None:
    """Print the summary, write the report, and complete the sweep's run in MLflow."""
    from stages.sweep.page import write_report

    sweep = gather_sweep(spec, outcomes)
    words = [
        textwrap.fill(sentence, TERMINAL_WIDTH)
        for sentence in (*describe_sweep(sweep), *list_cautions(sweep))
    ]
    adopt = [f"Adopt the best point: dvc exp apply {sweep.best.name}"] if sweep.best else []
    heading = f"\nsweep {spec.name} at {spec.commit[:7]}"
    print("\n".join([heading, *format_table(sweep), "", *words, *adopt]), flush=True)
    report = SWEEP_REPORTS / spec.name
    write_report(Path(spec.root) / report, sweep)
    print(f"Report: {report}/index.html and sweep.csv", flush=True)
    close_run(track, sweep, Path(spec.root) / report)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("sweep: interrupted. Rerun the same command to resume it.", file=sys.stderr)
        sys.exit(130)
