"""A sweep: each point of a Hydra multirun becomes a DVC experiment and an MLflow run.

    python -m stages.sweep -m train.lora.rank=4,8,16
    python -m stages.sweep -m train.lora.rank=4,8 hydra/launcher=joblib hydra.launcher.n_jobs=2

Each point runs in a clone of the commit that was checked out when the sweep began, with DVC's cache shared: your
tree is not touched and may be edited meanwhile, and what points have in common is made once. At the end there are a table,
reports/sweeps/<name>/index.html and sweep.csv; `dvc exp apply NAME` takes a point over. Killed, the same command goes on.
"""

import fcntl
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import remove
from stages.common.git import experiment_ref
from stages.common.stage import MULTIRUN, check_overrides, errors_as_message, run_with_hydra
from stages.config.compose import register_params, validate_config
from stages.sweep.mlflow_runs import best_of, close_run, open_run
from stages.sweep.places import cores, place, places_for
from stages.sweep.point import Result, run_point
from stages.sweep.results import Tried, gather
from stages.sweep.spec import (
    SCRATCH,
    Plan,
    dvc_params,
    is_swept,
    pin,
    point_name,
    point_overrides,
    sweeper,
    swept,
)
from stages.sweep.study import goes_on, watcher
from stages.sweep.summary_table import table, words
from stages.track.store import store_uri

REPORTS = Path("reports/sweeps")
ENDED = "no result: it was killed, or it still runs. The same command does what is missing"
# What an option of the command line imports, and the extra of pyproject.toml that brings it
EXTRAS = {
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
        points, sections = check_points(check_overrides(arguments))
        sweep, track = sections["sweep"], sections["track"]
        overrides = check_overrides(arguments)
        plan = pin(Path.cwd(), overrides, sweep, store_uri(track), len(points))
        with alone(plan, [o for o in overrides if is_swept(o)]):
            plan = replace(plan, run=open_run(track, plan))
            sys.argv[1:] = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={SCRATCH}/hydra/{plan.name}", *arguments]
            try:
                run_with_hydra("sweep", partial(job, plan), Path("conf"), "params")
            finally:  # also where a job was killed and the launcher gives up
                if results := read_results(plan, points):
                    finish(plan, track, results)
    sys.exit(any(r.status == "failed" for r in results))


def check_extras(arguments: Sequence[str]) -> None:
    """Raises UserError where a launcher or sweeper wants a package that is not installed."""
    for argument in arguments:
        module, extra = EXTRAS.get(argument.removeprefix("hydra/"), ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise UserError(
                f"{argument} wants {module}, which is not installed: .venv/bin/pip install -e '.[{extra}]'"
            )


def check_points(overrides: Sequence[str]) -> tuple[list[list[str]], dict[str, Any]]:
    """Compose and validate every point before anything is cloned; the points' overrides, and the sections of the last.

    Points that another sweeper than Hydra's own thinks up are checked when their job begins; of them, one without
    what is swept is returned.

    Raises:
        UserError: a key, a value or a group of a point is wrong, or cannot be set in params.yaml.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        own = parser.parse_overrides([o for o in overrides if not o.lstrip("+~").startswith("hydra")])
        if sweeper(overrides) == "tpe":
            check_space([o for o in own if o.is_sweep_override()])
        if sweeper(overrides) != "basic":
            own = [o for o in own if not o.is_sweep_override()]
        points = BasicSweeper.split_arguments(own, None)[0]
        for point in points:
            typed = validate_config(compose("params", overrides=point))
            dvc_params(point_overrides(point), Path("params.yaml"))
    return points, typed


def check_space(swept: Sequence[Any]) -> None:
    """Raises UserError for a sweep that Optuna cannot draw from."""
    from hydra_plugins.codetune.tpe import distribution

    for override in swept:
        distribution(override)


def job(plan: Plan, config: Any) -> float:
    """One Hydra job; its objective, or NaN for a point that failed or was pruned, so that the others go on."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    overrides = point_overrides(hydra.overrides.task)
    name = point_name(plan, overrides)
    points = hydra.sweeper.get("at_once", plan.points)  # tpe thinks up so many together
    places = places_for(launched(hydra), points, plan.at_once, len(plan.gpus), len(cores()) or 1)
    own = (
        nullcontext() if scheduled(hydra) else place(Path(plan.root) / SCRATCH / "places", places, plan.gpus)
    )
    with own:
        log = f"{plan.folder.relative_to(plan.root)}/{name}.log"
        print(f"[{name}] {' '.join(o.lstrip('+') for o in overrides)}: log in {log}", flush=True)
        watch = watcher(plan, hydra, config.sweep.get("trial", -1))
        result = run_point(plan, hydra.job.num, name, overrides, config, watch)
    print(f"[{name}] {result.status}, {told(plan, result)}, {result.seconds:.0f} s", flush=True)
    if result.error:
        print(result.error, file=sys.stderr, flush=True)
    return math.nan if result.objective is None else result.objective


def launched(hydra: Any) -> int:
    """How many jobs the launcher starts at the same time; 0: as many as there are."""
    launcher = hydra.runtime.choices["hydra/launcher"]
    if launcher == "basic":
        return 1
    jobs = hydra.launcher.get("n_jobs") or 0
    return jobs if jobs >= 0 else max(1, len(cores()) + 1 + jobs)


def scheduled(hydra: Any) -> bool:
    """Whether a scheduler gives each job its GPUs and cores: Slurm, or a Ray cluster that is more than this sweep's own."""
    launcher = hydra.runtime.choices["hydra/launcher"]
    return launcher == "submitit_slurm" or (launcher == "ray" and bool(hydra.launcher.address))


@contextmanager
def alone(plan: Plan, space: Sequence[str]) -> Iterator[None]:
    """Keep a second run of the same sweep away from this one's clones; forget the results of the last run (a study goes on).

    Raises:
        UserError: it is running, or its name is another study's.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the sweep {plan.name} is running already (its logs: {plan.folder})") from None
        if not (plan.study and goes_on(plan.folder, plan, space)):
            for old in plan.folder.glob("*.json"):
                remove(old)
        yield


def read_results(plan: Plan, points: Sequence[Sequence[str]]) -> list[Result]:
    """Results of all points in their order; of a grid's points also those that left none, unless none left one."""
    found = [Result(**json.loads(path.read_text("utf-8"))) for path in plan.folder.glob("*.json")]
    if found and not plan.study:
        there = {r.name for r in found}
        for number, overrides in enumerate(map(point_overrides, points)):
            if (name := point_name(plan, overrides)) not in there:
                found.append(Result(number, name, "failed", None, 0, ENDED, overrides=swept(plan, overrides)))
    return sorted(found, key=lambda r: r.number)


def told(plan: Plan, result: Result) -> str:
    key = plan.objective.split(":")[1]
    return f"no {key}" if result.objective is None else f"{key} {result.objective:.4g}"


def finish(plan: Plan, track: Any, results: Sequence[Result]) -> None:
    """The table on the terminal, and what of it is more than noise; the page; the sweep's run in MLflow."""
    from stages.sweep.page import write_report

    best, said = best_of(plan, results), words(results)
    adopt = [f"Take the best over: dvc exp apply {best.name}"] if best else []
    lines = [f"\nsweep {plan.name} at {plan.commit[:7]}", *table(results, plan.objective.split(":")[1])]
    print("\n".join([*lines, "", *said, *adopt]), flush=True)
    root, report = Path(plan.root), REPORTS / plan.name
    tried = [tried_of(plan, result) for result in results]
    of_sweep = (plan.name, plan.commit, plan.objective, plan.direction)
    write_report(root / report, gather(root, Path(plan.cache), *of_sweep, tried))
    print(f"Page: {report}/index.html, table: sweep.csv beside it", flush=True)
    close_run(track, plan, results, root / report)


def tried_of(plan: Plan, result: Result) -> Tried:
    ref = experiment_ref(plan.commit, result.name) if result.objective is not None else None
    return Tried(
        result.name, result.overrides, result.status, result.objective, result.seconds, result.error, ref
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("sweep: interrupted. The same command does what is missing.", file=sys.stderr)
        sys.exit(130)
