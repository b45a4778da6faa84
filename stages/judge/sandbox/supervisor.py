"""The supervisor inside the sandbox: fork a process per candidate, watch its time, and end it.

    python -s -S -P -B supervisor.py ROOT CONTROL_FD CONFIG_JSON

ROOT is put on the import path. For each candidate the control socket (SOCK_SEQPACKET) delivers its limits and
the descriptor of its own stream, and takes back how it ended. Tests of a problem never enter the sandbox,
except those that run beside the candidate (`Submission.test_in_sandbox`).
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
from importlib.machinery import PathFinder
from itertools import pairwise
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from stages.judge.sandbox import kernel, seccomp
from stages.judge.sandbox.candidate import run_candidate

if __name__ == "__main__":
    sys.path.pop(0)  # a candidate can import no module of ours

# What completions import most. Each module costs every fork a little; threading is left out: its hook runs
# after each fork.
PRELOADED = (
    "bisect cmath collections.abc copy functools heapq itertools math operator random re string typing"
)
MESSAGE_BYTES = 1 << 16
SLEEPER_SHARE = 0.1  # of the time that a candidate was waited for: one that uses less CPU time is asleep
MAX_THREADS = 128  # of a candidate at once


class PackageFinder:
    """Find the chosen packages, and nothing else that is installed beside them."""

    def __init__(self, folders: list[str], modules: list[str]) -> None:
        self.folders, self.modules = folders, frozenset(modules)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return PathFinder.find_spec(name, self.folders) if path is None and name in self.modules else None


def main() -> None:
    config = json.loads(sys.argv[3])
    control = socket.socket(fileno=int(sys.argv[2]))
    os.environ.clear()
    sys.meta_path.append(PackageFinder(config["packages"], config["modules"]))
    kernel.use_one_arena()
    os.putenv("OPENBLAS_NUM_THREADS", "1")  # not seen by os.environ, which stays empty
    del sys.argv[1:]  # hide where the judge is
    for module in [*PRELOADED.split(), *config["preloaded"]]:
        __import__(module)
    config["mounted"] = os.listdir(".")
    level, writable = config["level"], ["/tmp"] if config["level"] == "A" else []
    try:  # prepared once, for every candidate: a Landlock ruleset (-1: none), and filters without and with threads
        config["ruleset"] = -1
        if config["landlock"]:
            config["ruleset"] = kernel.landlock_ruleset(config["readable"], writable, config["listed"])
        config["filters"] = [seccomp.seccomp_template(threads) for threads in (False, True) if level != "C"]
    except kernel.KernelRefused as error:
        sys.exit(str(error))
    if os.getpid() != 1:
        kernel.adopt_orphans()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # a forked child's collector then copies no pages
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not message:
            return
        if descriptors:  # none: an "end" sent while the candidate ended by itself
            with candidate_folder(config["folder"]):
                end = run_job(control, descriptors[0], json.loads(message), config)
            control.send(json.dumps(end).encode())


@contextmanager
def candidate_folder(parent: str) -> Iterator[None]:
    """At level C, where a candidate can write, work in a new directory and remove it afterwards.

    Elsewhere (no parent) stay in place: in the tmpfs at A, in the root at B, which Landlock hides.
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
    control: socket.socket, stream: int, job: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Run one candidate to its end; return how it ended, and whether it left files."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            become_candidate(stream, theirs, job, config)
        finally:
            os._exit(1)
    os.close(stream)
    theirs.close()
    # Written before the program is read, so that a candidate cannot forge it
    message, listener, _, _ = socket.recv_fds(ours, MESSAGE_BYTES, 1)
    trouble = message.decode().strip()
    ours.close()
    killed = watch(control, pid, job, listener)
    _, status, usage = os.wait4(pid, 0)
    kill_leftovers()
    end = {"id": job["id"], "killed": killed, "status": status, "cpu": usage.ru_utime + usage.ru_stime}
    dirty = config["level"] == "A" and os.listdir(".") != config["mounted"]
    return {**end, "dirty": dirty, "trouble": trouble, "threads": bool(listener) or config["level"] == "C"}


def become_candidate(stream: int, report: socket.socket, job: dict[str, Any], config: dict[str, Any]) -> None:
    """In the forked process: close all descriptors but the stream, confine the process, run the program.

    `report` takes what went wrong, or the descriptor that gives leave to start threads.
    """
    try:
        kept = (2, stream, report.fileno(), max(2, config["ruleset"]), 4096)
        for first, last in pairwise(sorted(kept)):
            os.closerange(first + 1, last)
        os.dup2(1, 2)  # the supervisor's stderr is a file, a candidate's is discarded
        os.setsid()
        confine(job, config, report)
    except BaseException as error:
        report.send(f"{type(error).__name__}: {error}".encode()[:1000])
        return
    report.close()
    run_candidate(stream)


def watch(control: socket.socket, pid: int, job: dict[str, Any], listener: list[int]) -> str:
    """Wait for the candidate's end or kill it; return why it was killed ("": it ended by itself).

    `listener` takes the requests of its threads to start and to end.
    """
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(control, select.POLLIN)
    for asking in listener:
        poll.register(asking, select.POLLIN)
    threads = 0
    clock = (~pid << 3) | 2  # the process's CPU clock, as in clock_getcpuclockid(3)
    deadline = time.monotonic() + job["wall_seconds"]
    killed = ""
    try:
        while not killed:
            cpu_left = job["cpu_seconds"] - time.clock_gettime(clock)
            wall_left = deadline - time.monotonic()
            if cpu_left <= 0 or wall_left <= 0:
                killed = "cpu" if cpu_left <= 0 else "wall"
                break
            # one thread uses CPU time no faster than wall time; where threads are possible, check often
            ready = dict(poll.poll(max(1, 1000 * min(cpu_left, wall_left, job["poll_seconds"]))))
            if descriptor in ready:
                break
            for asking in listener:
                if ready.get(asking, 0) & select.POLLIN:
                    threads += seccomp.answer_thread(asking, threads < MAX_THREADS)
                elif asking in ready:  # hung up: the process is gone
                    poll.unregister(asking)
            if control.fileno() in ready:
                word, _, seconds = control.recv(MESSAGE_BYTES).decode().partition(" ")
                if word != "waited":
                    killed = "end" if word else "closed"
                elif time.clock_gettime(clock) < SLEEPER_SHARE * float(seconds):
                    killed = "asleep"
    except OSError:  # the process is gone, and its clock with it
        pass
    finally:
        for one in (descriptor, *listener):
            os.close(one)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return killed


def kill_leftovers() -> None:
    """Kill what a candidate left running: needed at level C, a safeguard where seccomp forbids processes."""
    for _ in range(10_000):
        targets = [-1] if os.getpid() == 1 else []
        with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
            targets = [int(word) for word in file.read().split()]
        for target in targets:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def confine(job: dict[str, Any], config: dict[str, Any], report: socket.socket) -> None:
    """Drop, in this forked process, every right that a function does not need."""
    level, threads = config["level"], job["threads"]
    kernel.limit_resources(job["cpu_seconds"], job["memory_bytes"], threads and level != "C")
    if level == "C":  # no seccomp refuses processes there
        return
    if config["user"]:
        kernel.drop_user(config["user"])
    if level == "B":
        kernel.drop_capabilities()
    if config["ruleset"] >= 0:
        kernel.enter_landlock(config["ruleset"])
        os.close(config["ruleset"])
    if threads:
        try:
            listener = seccomp.ask_for_threads()
            socket.send_fds(report, [b" "], [listener])
            os.close(listener)
        except kernel.KernelRefused:
            threads = False
    seccomp.enter_seccomp(config["filters"][threads])


if __name__ == "__main__":
    main()
