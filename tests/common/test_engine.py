"""Engines: the same results in the same order, errors as raised, no process left."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stages.common.core.errors import UserError
from stages.common.engine import TASKS_AHEAD, Engine, EngineSettings, open_engine
from tests.helpers.tiny_project import REPOSITORY


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3))  # later tasks end sooner
    return number * number, os.getpid()


def refuse_three(number: int) -> int:
    if number == 3:
        raise UserError("no three")
    return number


@contextmanager
def two_nodes() -> Iterator[str]:
    """A Ray cluster of two nodes on this machine; its address."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()


def check(engine: Engine, processes: int) -> None:
    results = list(engine.map(square, range(12)))
    assert [value for value, _ in results] == [n * n for n in range(12)]
    assert len({process for _, process in results}) == processes
    with pytest.raises(UserError, match="no three"):
        list(engine.map(refuse_three, range(8)))


@pytest.mark.parametrize("workers", [1, 2])
def test_native_maps_in_order(workers: int) -> None:
    with open_engine(EngineSettings(workers=workers)) as engine:
        assert engine.workers == workers
        check(engine, workers)


def test_tasks_are_drawn_a_bounded_number_ahead() -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    with open_engine(EngineSettings(workers=2)) as engine:
        next(engine.map(square, tasks()))
    assert len(drawn) <= 2 * TASKS_AHEAD + 1


def check_ray(address: str) -> None:
    with open_engine(EngineSettings("ray", address=address)) as engine:
        assert engine.workers == 2
        check(engine, 2)


def check_ray_elsewhere(address: str) -> None:
    """Check that Ray maps in order on two nodes; called where a stage runs on a cluster, which takes long to start."""
    code = f"from tests.common.test_engine import check_ray; check_ray({address!r})"
    # Ray's connections outlive it in its process
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_unreachable_cluster_is_one_message() -> None:
    with (
        pytest.raises(UserError, match=r"engine\.address is '127\.0\.0\.1:1'"),
        open_engine(EngineSettings("ray", address="127.0.0.1:1")),
    ):
        pass
