"""A Python that has imported the libraries already, for processes of the tiny pipeline: importing takes longer than the work.

    warm = WarmPython(folder)     # starts a server; folder/bin, with `python` and `dvc`, is to be put first on PATH
    warm.close()

`bin/python -m stages.train ...` is run by a fork of the server, with the caller's arguments, folder, environment and
standard streams. It is a process of its own that imports the stage's code from the caller's folder: only libraries
of others are there before. Anything else than a module of `WARM` starts the real interpreter. A caller that is killed
takes its fork along.
"""

import array
import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
WARM = (
    "dvc",
    *(f"stages.{name}" for name in ("base", "config", "fetch", "sample", "clean", "pack", "train", "merge")),
)
WARM += ("stages.evaluate", "stages.report", "stages.report.summary", "stages.track", "stages.track.live")
WARM += ("stages.plan", "stages.sweep")
LIBRARIES = (
    *(
        "accelerate",
        "bitsandbytes",
        "datasets",
        "dvc.cli.parser",  # every command
        "dvc.analytics",
        "dvc.cachemgr",
        "dvc.data_cloud",
        "dvc.lock",
        "dvc.repo.experiments.queue.workspace",
        "dvc.repo.reproduce",
        "dvc.repo.status",
        "dvc_render.image",
        "fsspec",
        "hydra._internal.hydra",
    ),
    *(
        "jinja2",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "mlflow.models",
        "mlflow.pyfunc",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.tracking",
        "omegaconf",
        "pandas",
        "peft",
    ),
    *("pyarrow.parquet", "safetensors.torch", "scipy.stats", "torch", "tqdm", "transformers.trainer"),
    *(
        "transformers.models.auto.modeling_auto",
        "transformers.models.llama.modeling_llama",
        "detect_secrets",
    ),
)
START_SECONDS = 120
# Without `site` and the environment's variables: it starts in a fiftieth of a second
CLIENT = """\
#!{python} -SE
import array, json, os, signal, socket, sys
if sys.argv[1:2] != ["-m"] or sys.argv[2:3] == [] or sys.argv[2] not in {warm!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.connect({address!r})
message = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ), os.path.abspath(sys.argv[0])]).encode()
fds = array.array("i", [0, 1, 2])
server.sendmsg([len(message).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
server.sendall(message)
child = int.from_bytes(server.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(child, number))
status = int.from_bytes(server.recv(4), "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class WarmPython:
    """The server, and the folder with its interpreter."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        address = str(folder / "socket")
        client = CLIENT.format(python=sys.executable, warm=WARM, address=address)
        (self.bin / "python").write_text(client, "utf-8")
        (self.bin / "python").chmod(0o755)
        (self.bin / "dvc").write_text(f'#!/bin/sh\nexec {self.bin}/python -m dvc "$@"\n', "utf-8")
        (self.bin / "dvc").chmod(0o755)
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.helpers.warm_python", address],
            cwd=REPOSITORY,
            env={**os.environ, **single, "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready == b"ready\n", "the warm Python did not start"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # its sign to end
        self._process.wait(30)


def serve(address: str) -> None:
    """Fork for each caller until standard input ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(address)
    server.listen(16)
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken.fileno())
    events = selectors.DefaultSelector()
    for source in (server, wake, sys.stdin):
        events.register(source, selectors.EVENT_READ)
    callers: dict[int, socket.socket] = {}  # by the process id of the fork
    print("ready", flush=True)
    while True:
        for key, _ in events.select():
            if key.fileobj is sys.stdin:
                for child in callers:
                    os.kill(child, signal.SIGKILL)
                return
            if key.fileobj is server:
                caller, _ = server.accept()
                child = start(caller, server)
                callers[child] = caller
                caller.sendall(child.to_bytes(4, "big"))
                events.register(caller, selectors.EVENT_READ)
            elif key.fileobj is wake:
                wake.recv(4096)
                reap(callers, events)
            else:  # the caller was killed
                events.unregister(key.fileobj)
                for child, caller in callers.items():
                    if caller is key.fileobj:
                        os.kill(child, signal.SIGKILL)


def reap(callers: dict[int, socket.socket], events: selectors.BaseSelector) -> None:
    """Hand the exit statuses of forks that have ended to their callers."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        caller = callers.pop(child)
        if caller in {key.fileobj for key in events.get_map().values()}:
            events.unregister(caller)
            with contextlib.suppress(OSError):  # the caller was killed at this moment
                caller.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        caller.close()


def start(caller: socket.socket, server: socket.socket) -> int:
    """Fork; the child runs what the caller asks for and does not return. Its process id."""
    head, control, _, _ = caller.recvmsg(4, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i", control[0][2])
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        message += caller.recv(1 << 20)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        return child
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        server.close()
        caller.close()
        become(*json.loads(message))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        finish()
        os._exit(status)


def become(arguments: list[str], folder: str, environment: dict[str, str], interpreter: str) -> Any:
    """Be `interpreter -m` with these arguments."""
    sys.executable = interpreter
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=1 if number else -1, closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.path[0] = folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("stages", "tests", "hydra_plugins")]:
        del sys.modules[name]
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def finish() -> None:
    """What an interpreter does before it ends."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
