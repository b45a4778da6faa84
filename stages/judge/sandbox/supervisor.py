"""Forks one process per candidate, watches its time, and ends it: the supervisor inside the sandbox.

    python -s -S -P -B supervisor.py ROOT CONTROL_FD CONFIG_JSON

ROOT is put on the import path. Over the control socket (SOCK_SEQPACKET) come, per candidate, its limits with the
descriptor of its own stream; back goes how it ended. The tests of a problem never come here (a `weak` problem's do).
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from stages.judge.sandbox import kernel
from stages.judge.sandbox.candidate import run_candidate

if __name__ == "__main__":
    sys.path.pop(0)  # no module of ours for a candidate to import

# What completions import most; each module more costs every fork. threading would: its hook runs after each.
PRELOADED = (
    *(
        "bisect",
        "cmath",
        "collections.abc",
        "copy",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "random",
    ),
    *("re", "string", "typing"),
)
MESSAGE_BYTES = 1 << 16


class Confinement(NamedTuple):
    """What every candidate is put under, prepared once."""

    level: str
    user: int
    ruleset: int  # descriptor of Landlock's, -1: none
    filter: bytes  # of seccomp, for any process; empty: none


def prepare_confinement(config: dict[str, Any]) -> Confinement:
    """Raises KernelRefused for what this machine does not give."""
    level = config["level"]
    writable = ["/tmp"] if level == "A" else []
    return Confinement(
        level,
        config["user"],
        kernel.landlock_ruleset(config["readable"], writable, config["listed"]) if config["landlock"] else -1,
        kernel.seccomp_template() if level != "C" else b"",
    )


def main() -> None:
    config = json.loads(sys.argv[3])
    control = socket.socket(fileno=int(sys.argv[2]))
    os.environ.clear()
    del sys.argv[1:]  # where the judge lies is nobody's business
    for module in PRELOADED:
        __import__(module)
    try:
        confinement = prepare_confinement(config)
    except kernel.KernelRefused as error:
        sys.exit(str(error))
    if os.getpid() != 1:
        kernel.adopt_orphans()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # forked children then do not copy the pages by counting
    control.send(json.dumps({"ready": True, "landlock": kernel.landlock_version()}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not message:
            return
        if descriptors:  # without: an "end" that crossed the candidate's own end
            with candidate_folder(config["folder"]):
                end = run_job(control, descriptors[0], json.loads(message), confinement)
            control.send(json.dumps(end).encode())


@contextmanager
def candidate_folder(parent: str) -> Iterator[None]:
    """At level C, where a candidate can write, a working directory that is removed after it.

    Elsewhere (no parent) it stays where it is: the tmpfs at A, at B the root, of which Landlock shows nothing.
    """
    if not parent:
        yield
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="candidate-", dir=parent, ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir("/")


def run_job(
    control: socket.socket, stream: int, job: dict[str, Any], confinement: Confinement
) -> dict[str, Any]:
    """Run one candidate to its end; says how it ended, and whether it left files."""
    confined, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become_candidate(stream, told, job, confinement)
        finally:
            os._exit(1)
    os.close(stream)
    os.close(told)
    trouble = os.read(
        confined, MESSAGE_BYTES
    ).decode()  # written before the program is read: a candidate cannot forge it
    os.close(confined)
    killed = watch(control, pid, job)
    _, status, usage = os.wait4(pid, 0)
    kill_leftovers()
    dirty = any(True for _ in os.scandir(".")) if confinement.level == "A" else False
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "killed": killed,
        "status": status,
        "cpu": cpu,
        "dirty": dirty,
        "id": job["id"],
        "trouble": trouble,
    }


def become_candidate(stream: int, told: int, job: dict[str, Any], confinement: Confinement) -> None:
    """In the forked process: keep the stream alone, give up all else, then run the program."""
    try:
        for first, last in pairwise(sorted((2, stream, told, max(2, confinement.ruleset), 4096))):
            os.closerange(first + 1, last)
        os.dup2(1, 2)  # the supervisor's own words go to a file, a candidate's nowhere
        os.setsid()
        confine(job, confinement)
    except BaseException as error:
        os.write(told, f"{type(error).__name__}: {error}".encode()[:1000])
        return
    os.close(told)
    run_candidate(stream)


def watch(control: socket.socket, pid: int, job: dict[str, Any]) -> str:
    """Wait for the candidate's end or bring it about; returns which limit did ("": it ended by itself)."""
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(control, select.POLLIN)
    clock = (~pid << 3) | 2  # the process's CPU clock, as clock_getcpuclockid(3) makes it
    deadline = time.monotonic() + job["wall_seconds"]
    killed = ""
    try:
        while not killed:
            cpu_left = job["cpu_seconds"] - time.clock_gettime(clock)
            wall_left = deadline - time.monotonic()
            if cpu_left <= 0 or wall_left <= 0:
                killed = "cpu" if cpu_left <= 0 else "wall"
                break
            # one thread cannot use CPU time faster than wall time; where threads are possible, look often
            ready = dict(poll.poll(max(1, 1000 * min(cpu_left, wall_left, job["poll_seconds"]))))
            if descriptor in ready:
                break
            if control.fileno() in ready:
                killed = "end" if control.recv(MESSAGE_BYTES) else "closed"
    except OSError:  # the clock of a process that is gone
        pass
    finally:
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return killed


def kill_leftovers() -> None:
    """End whatever else a candidate left; seccomp refuses to start it, so that this is for level C and for safety."""
    alone = os.getpid() == 1
    for _ in range(10_000):
        targets = [-1] if alone else child_processes()
        for target in targets:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if targets and not alone else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def child_processes() -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


def confine(job: dict[str, Any], confinement: Confinement) -> None:
    """Give up, in this forked process, all that a function does not need."""
    kernel.limit_resources(job["cpu_seconds"], job["memory_bytes"])
    if confinement.level == "C":
        return
    if confinement.user:
        kernel.drop_user(confinement.user)
    if confinement.level == "B":
        kernel.drop_capabilities()
    if confinement.ruleset >= 0:
        kernel.enter_landlock(confinement.ruleset)
        os.close(confinement.ruleset)
    kernel.enter_seccomp(confinement.filter)


if __name__ == "__main__":
    main()
