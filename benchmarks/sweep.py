"""Run points of a sweep at the same time: is any lost or locked out, and what does each cost beyond its stages?

    python -m benchmarks.sweep                      # four points at once, ten times over
    python -m benchmarks.sweep --rounds 2 --at-once 2

Uses the toy pipeline of the tests (tests/helpers/toy_pipeline.py), so that it measures the sweep alone: git, DVC,
locks, MLflow. Compares with DVC's own way to run several, `dvc exp run --queue` and `--run-all --jobs`, on the same points.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tell import Part, machine, ratio, table_of
from tests.helpers.tiny_project import SITE, Project, make_project, write_model
from tests.helpers.toy_pipeline import (
    LOCK_ERROR,
    experiment_names,
    make_toy,
    run_sweep,
    user_files,
    without_hashes,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=4)
    arguments = parser.parse_args()
    count = arguments.at_once
    print(machine(("dvc", "hydra-core", "hydra-joblib-launcher", "joblib")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault(SITE, str(folder / "site"))
        write_model(folder / "tiny")
        toy = make_toy(make_project(folder / "fresh", folder / "tiny"), folder / "toy")
        copies = [toy.copy(folder / f"round-{i}") for i in range(2 * arguments.rounds)]
        ours, theirs = [], []
        for mine, other in zip(copies[::2], copies[1::2], strict=True):  # in turns
            ours.append(measure_round(mine, count, run_swept))
            print("ours  ", ours[-1], flush=True)
            theirs.append(measure_round(other, count, run_queued))
            print("theirs", theirs[-1], flush=True)
    print()
    print(table_of(list(parts(ours, theirs, count))))
    sys.exit(any(r.lost or r.locked or r.changed for r in ours))


@dataclass(frozen=True)
class Round:
    """The result of one round of points."""

    # Points without an experiment
    lost: int
    # Whether a lock error was printed
    locked: bool
    # Whether a file of the user's tree changed
    changed: bool
    seconds: float


def measure_round(project: Project, count: int, run: Callable[[Project, range], str]) -> Round:
    before, started = user_files(project), time.perf_counter()
    printed = run(project, range(20, 20 + count))
    seconds = time.perf_counter() - started
    made = [name for name in without_hashes(experiment_names(project)) if name.startswith("rank-")]
    return Round(
        count - len(made), bool(LOCK_ERROR.search(printed)), user_files(project) != before, round(seconds, 1)
    )


def run_swept(project: Project, ranks: range) -> str:
    many = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={len(ranks)}", f"sweep.at_once={len(ranks)}")
    return run_sweep(project, "-m", f"train.lora.rank={','.join(map(str, ranks))}", *many).err


def run_queued(project: Project, ranks: range) -> str:
    dvc = (sys.executable, "-m", "dvc", "exp", "run")
    for rank in ranks:
        project.run(
            *dvc, "--queue", "--name", f"rank-{rank}-0", "-S", f"++train.lora.rank={rank}", check=True
        )
    return project.run(*dvc, "--run-all", "--jobs", str(len(ranks))).text


def parts(ours: Sequence[Round], theirs: Sequence[Round], count: int) -> Iterator[Part]:
    points = count * len(ours)
    yield Part("points", str(points), str(points), f"{len(ours)} rounds of {count} at once", "")
    for what, of in (
        ("points lost", lambda r: r.lost),
        ("rounds with a lock error", lambda r: int(r.locked)),
        ("rounds that changed the tree", lambda r: int(r.changed)),
    ):
        found = sum(map(of, ours))
        yield Part(what, str(found), str(sum(map(of, theirs))), "" if found else "none", "none")
    a, b = (sum(r.seconds for r in side) / points for side in (ours, theirs))
    yield Part("seconds a point", f"{a:.1f}", f"{b:.1f}", ratio(b, a), "")


if __name__ == "__main__":
    main()
