"""Run pure functions over many tasks, in local processes or on a Ray cluster, with the same results."""

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

from stages.common.core.errors import UserError
from stages.common.core.settings import require

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
ENGINE_KINDS = ("native", "ray")
# Tasks submitted ahead per worker. Results are returned in order, so without a limit they could fill the
# memory.
TASKS_AHEAD = 2


@dataclass
class EngineSettings:
    # native: processes of this machine | ray: a Ray cluster
    kind: str = "native"
    # native: number of processes; 0: one per core
    workers: int = 0
    # ray: host:port of the cluster's head; empty: start a cluster on this machine for the run
    address: str = ""

    def __post_init__(self) -> None:
        require(self.kind in ENGINE_KINDS, "engine.kind", self.kind, "one of " + ", ".join(ENGINE_KINDS))
        require(self.workers >= 0, "engine.workers", self.workers, "0 or more")


class Engine(Protocol):
    workers: int  # tasks that run at once

    def map(self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[ResultT]:
        """Yield results in the order of `tasks`, computing a bounded number ahead of the reader.

        `function` is a module-level function (picklable by name). Its data comes with the task, or from a
        file that the process caches (`functools.lru_cache`). Relative paths resolve as in the driver, on
        every machine (a shared file system). An error ends the run.
        """
        ...


class SerialEngine:
    """Runs tasks in this process."""

    workers = 1

    def map(self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[ResultT]:
        return map(function, tasks)


class ProcessEngine:
    """Runs tasks in processes of this machine."""

    def __init__(self, workers: int, executor: Any) -> None:
        self.workers = workers
        self.executor = executor

    def map(self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[ResultT]:
        waiting: deque[Any] = deque()
        for task in tasks:
            waiting.append(self.executor.submit(function, task))
            if len(waiting) > TASKS_AHEAD * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class RayEngine:
    """Runs tasks on a Ray cluster, whose machines have this working directory at the same path."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[ResultT]:
        import ray

        remote = ray.remote(run_in_folder).options(max_retries=3, scheduling_strategy="SPREAD")
        folder = str(Path.cwd())
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(remote.remote(folder, function, task))
                if len(waiting) > TASKS_AHEAD * self.workers:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def run_in_folder(folder: str, function: Callable[[TaskT], ResultT], task: TaskT) -> ResultT:
    os.chdir(folder)
    return function(task)


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine]:
    """Open the engine that the settings name.

    Raises:
        UserError: ray is not installed, or the cluster is unreachable.
    """
    if settings.kind == "ray":
        with ray_cluster(settings.address) as cluster:
            yield cluster
        return
    workers = settings.workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield SerialEngine()
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, context, initializer=exit_with_parent) as executor:
        try:
            yield ProcessEngine(workers, executor)
        except BaseException:
            # Waiting: Python forgets a pool that it does not wait for, and may write to its closed pipe at exit
            executor.shutdown(cancel_futures=True)
            raise


def exit_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def require_reachable(address: str) -> None:
    """Check that something listens at `address`; Ray itself would retry for minutes.

    Raises:
        UserError: nothing listens there, or it is not host:port.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"engine.address is {address!r}: no Ray cluster answers there ({error}). Set it to host:port of "
            "the cluster's head, or leave it empty for a cluster on this machine."
        ) from None


@contextmanager
def ray_cluster(address: str) -> Iterator[Engine]:
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine.kind is ray, but ray is not installed. Run `pip install -e '.[ray]'`, or set "
            "engine.kind=native."
        ) from None
    if address:
        require_reachable(address)
    ray.init(
        address=address or "local",
        log_to_driver=False,
        include_dashboard=None if address else False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
    )
    try:
        yield RayEngine(int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()
