"""Runs pure functions over many tasks: in processes of this machine, or on a Ray cluster. Results do not depend on which."""

import ctypes
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stages.common.errors import UserError
from stages.common.settings import require

T = TypeVar("T")
R = TypeVar("R")
KINDS = ("native", "ray")
AHEAD = 2  # tasks waiting for each worker: results come in order, so memory stays bounded


@dataclass
class EngineSettings:
    kind: str = "native"  # native: processes of this machine | ray: a Ray cluster
    workers: int = 0  # native: processes at once, 0: one per core
    address: str = ""  # ray: host:port of the head; empty: a cluster of this machine alone, made for the run

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "engine.kind", self.kind, "one of " + ", ".join(KINDS))
        require(self.workers >= 0, "engine.workers", self.workers, "0 or more")


class Engine(Protocol):
    workers: int  # tasks that are worked on at once

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of `tasks`, a bounded number of them ahead of the reader.

        `function` is a module's, picklable by name. What it needs is in the task, or is read from a file and kept by
        the process (`functools.lru_cache`): relative paths are those of the driver, on every machine (a shared file
        system). An error ends the run.
        """
        ...


class Serial:
    """In this process."""

    workers = 1

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        return map(function, tasks)


class Processes:
    """In processes of this machine."""

    def __init__(self, workers: int, executor: Any) -> None:
        self.workers = workers
        self.executor = executor

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        waiting: deque[Any] = deque()
        for task in tasks:
            waiting.append(self.executor.submit(function, task))
            if len(waiting) > AHEAD * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Ray:
    """On the machines of a Ray cluster, which see this working directory under the same path."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        import ray

        remote = ray.remote(in_folder).options(max_retries=3, scheduling_strategy="SPREAD")
        folder = str(Path.cwd())
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(remote.remote(folder, function, task))
                if len(waiting) > AHEAD * self.workers:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def in_folder(folder: str, function: Callable[[T], R], task: T) -> R:
    os.chdir(folder)
    return function(task)


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine]:
    """The engine that the settings ask for; Daft's queries inside run on it too.

    Raises:
        UserError: ray is not installed, or the cluster cannot be reached.
    """
    if settings.kind == "ray":
        with ray_cluster(settings.address) as cluster:
            yield cluster
        return
    workers = settings.workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield Serial()
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, context, initializer=die_with_parent) as executor:
        try:
            yield Processes(workers, executor)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def die_with_parent() -> None:
    """A killed stage leaves no process behind (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def require_answer(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        UserError: nothing listens at `address`, or it is not host:port.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"engine.address is {address!r}: no Ray cluster answers there ({error}). Expected host:port of its head."
        ) from None


@contextmanager
def ray_cluster(address: str) -> Iterator[Engine]:
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine.kind is ray, but ray is not installed: `pip install -e '.[ray]'`, or engine.kind=native"
        ) from None
    if address:
        require_answer(address)
    ray.init(
        address=address or "local",
        log_to_driver=False,
        include_dashboard=None if address else False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
    )
    import daft

    daft.set_runner_ray(noop_if_initialized=True)
    try:
        yield Ray(int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()
