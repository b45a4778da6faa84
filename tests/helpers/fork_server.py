"""A process that has imported what training needs and forks for each job: imports take longer than tiny trainings.

    forks = Forks()
    statuses = forks.run("tests.train.test_killed:train", folder, ranks=2, dropout=0.2)

A job is a function of a test module; it runs with the folder as its working directory. A status is an exit status, or
minus the signal that ended the process. `folder/rank<number>.log` holds what a rank printed.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.helpers.tiny_project import REPOSITORY

JOB_SECONDS = 300  # after which a job's processes are killed: a rank that waits for ever for another


class Forks:
    def __init__(self) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.helpers.fork_server"],
            cwd=REPOSITORY,
            env={**os.environ, **single},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: str, folder: Path, ranks: int = 1, **arguments: Any) -> list[int]:
        """Run a job in `ranks` processes (1: not as a rank), wait for all, return their statuses in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"job": job, "folder": str(folder), "ranks": ranks, "arguments": arguments}
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)


def serve() -> None:
    """Fork for each job from stdin until it ends."""
    import accelerate.utils  # noqa: F401
    import bitsandbytes  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import stages.train.__main__
    import stages.train.trainer  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        message = json.loads(line)
        module, _, name = message["job"].partition(":")
        importlib.import_module(module)  # once, before the fork
        port = free_port()
        children = [start(module, name, message, rank, port) for rank in range(message["ranks"])]
        print(json.dumps(await_all(children)), flush=True)


def start(module: str, name: str, message: dict[str, Any], rank: int, port: int) -> int:
    """Fork and return the child's process id; the child runs the job and exits."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(message["folder"])
        log = os.open(f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if message["ranks"] > 1:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": message["ranks"], "MASTER_PORT": port}
            numbers["LOCAL_WORLD_SIZE"] = message["ranks"]
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in numbers.items()}}
        getattr(sys.modules[module], name)(**message["arguments"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def await_all(children: list[int]) -> list[int]:
    """Wait for the children and return their statuses; kill those that take too long."""
    statuses: dict[int, int] = {}

    def kill_late(number: int, frame: Any) -> None:
        for child in set(children) - set(statuses):  # not reaped yet, so the ids are still theirs
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill_late)
    signal.alarm(JOB_SECONDS)
    for child in children:
        statuses[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(0)
    return [statuses[child] for child in children]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    serve()
