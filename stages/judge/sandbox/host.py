"""Start the supervisor of candidates at one of three isolation levels, and talk to it.

    A  namespaces (bubblewrap: no network, no home, no /proc, a read-only root with only the interpreter),
       seccomp, Landlock if the kernel has it, resource limits
    B  Landlock, seccomp, resource limits, no capabilities, and an unused user if it can read the interpreter
    C  resource limits only: a candidate can read files, use the network and start processes

Not covered at any level: a hole in the kernel, and side channels through a core's caches and timing.
"""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.judge.sandbox import kernel, values

SANDBOX_FOLDER = Path(__file__).resolve().parent
REPOSITORY_ROOT = SANDBOX_FOLDER.parents[2]
# All that runs inside the sandbox: they import the standard library and each other only
MOUNTED_FILES = ("supervisor.py", "candidate.py", "script.py", "kernel.py", "seccomp.py", "values.py")
# What the supervisor is told
CONFIGURED = ("level", "landlock", "packages", "modules", "preloaded", "listed", "user")
START_SECONDS = 30.0
CLEAN_UP_SECONDS = 2.0
PYTHON_FLAGS = ("-s", "-S", "-P", "-B")  # not -I or -E: they would ignore PYTHONHASHSEED


class SandboxFailed(Exception):
    """The sandbox failed, not the candidate."""


class LevelUnavailable(Exception):
    """This machine does not support a level; says why."""


@dataclass(frozen=True)
class Limits:
    # Decides the verdict
    cpu_seconds: float = 3.0
    # Address space
    memory_bytes: int = 1 << 30
    # Wall time as a multiple of the CPU limit, at most. One that is waited for longer than the CPU limit, and
    # used less than SLEEPER_SHARE of that time, is asleep and ends then
    wall_factor: float = 10.0

    @property
    def wall_seconds(self) -> float:
        return self.wall_factor * self.cpu_seconds


@dataclass(frozen=True)
class Isolation:
    """A level, why it was chosen, and what starting it needs."""

    level: str
    # Why no higher level; empty at the highest
    why: str = ""
    bwrap: str = ""
    python: str = ""
    # Folders and files that the interpreter reads
    libraries: list[str] = field(default_factory=list)
    # Other files and folders that can be read, also inside of `hidden`
    extra: list[str] = field(default_factory=list)
    # Folders of installed packages
    packages: list[str] = field(default_factory=list)
    # What may be imported from there
    modules: list[str] = field(default_factory=list)
    # Modules that the supervisor loads beside those that completions import most, before it forks
    preloaded: list[str] = field(default_factory=list)
    # Level A: folders inside `libraries` that appear empty
    hidden: list[str] = field(default_factory=list)
    # Level B: folders that can be listed but not read
    listed: list[str] = field(default_factory=list)
    landlock: bool = False
    # Level B: the unused user id; 0: none
    user: int = 0


class Sandbox:
    """One supervisor process, which runs one candidate at a time.

    Raises:
        LevelUnavailable: it did not start; says why.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self.error_text = ""  # the end of the supervisor's stderr, once it has ended
        self.stderr = open(os.memfd_create("stderr"), "w+b")  # noqa: SIM115 in memory: a kill leaves no file
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(START_SECONDS)
        self.jobs = 0
        with theirs:
            self.process = subprocess.Popen(
                supervisor_command(isolation, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.stderr,
                cwd="/",  # levels A and C then enter a folder of their own; at B nothing of it is visible
                env={"PYTHONHASHSEED": "0"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ready = b""
        with contextlib.suppress(OSError):
            ready = self.control.recv(1 << 16)
        if not ready:
            self.close()
            raise LevelUnavailable(self.error_text or "the sandbox did not start")

    def close(self) -> None:
        """End the supervisor and all its descendants."""
        self.control.close()
        if self.isolation.level == "C":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(CLEAN_UP_SECONDS)  # it removes the candidate's folder
        self.process.kill()
        self.process.wait()
        self.stderr.seek(0)
        self.error_text = self.stderr.read().decode("utf-8", "replace").strip()[-300:]
        self.stderr.close()

    @contextmanager
    def run(self, limits: Limits, threads: bool = False, patient: bool = False) -> Iterator["Candidate"]:
        """Fork a candidate, which may start threads; after the block it is dead, and its `end` says how it ended."""
        ours, theirs = socket.socketpair()
        self.jobs += 1
        often = threads or self.isolation.level == "C"
        job = {"id": self.jobs, "threads": threads, "poll_seconds": 0.05 if often else 1.0, **asdict(limits)}
        job["wall_seconds"] = limits.wall_seconds
        tell = (lambda word: None) if patient else lambda word: self.guard(self.control.send, word.encode())
        candidate = Candidate(ours, limits, tell)
        with ours:
            with theirs:
                self.guard(socket.send_fds, self.control, [json.dumps(job).encode()], [theirs.fileno()])
            self.control.settimeout(limits.wall_seconds + START_SECONDS)
            try:
                yield candidate
            finally:
                self.guard(self.control.send, b"end")
                candidate.end = json.loads(self.guard(self.control.recv, 1 << 16) or b"{}")
        if candidate.end.get("id") != self.jobs:
            raise SandboxFailed("the supervisor ended")

    def guard(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            raise SandboxFailed(f"the supervisor does not answer ({error})") from None


class Candidate:
    """The stream to one candidate. Nothing in its messages is trusted but the value of an answer."""

    def __init__(self, stream: socket.socket, limits: Limits, on_wait: Callable[[str], object]) -> None:
        self.stream = stream
        self.limits = limits
        self.on_wait = (
            on_wait  # tells the supervisor each time that it was waited for as long as the CPU limit
        )
        self.waited = 0.0  # seconds, over all its answers
        self.next_check = limits.cpu_seconds
        self.buffer = bytearray()
        self.end: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            EOFError: the candidate is gone.
        """
        try:
            self.stream.sendall(values.encode_frame(message))
        except OSError as error:
            raise EOFError(str(error)) from None

    def receive(self) -> dict[str, Any]:
        """Return one message.

        Raises:
            EOFError: the candidate is gone.
            OverflowError: the message is longer than values.MAX_FRAME_BYTES.
            values.Malformed: a message that candidate.py does not write.
        """
        (length,) = values.FRAME_HEADER.unpack(self.read(values.FRAME_HEADER.size))
        if length > values.MAX_FRAME_BYTES:
            raise OverflowError(f"a reply of {length} bytes, {values.MAX_FRAME_BYTES} are allowed")
        try:
            message = json.loads(self.read(length))
        except (ValueError, RecursionError) as error:
            raise values.Malformed(f"a reply that is no JSON ({type(error).__name__})") from None
        if not isinstance(message, dict):
            raise values.Malformed("a reply that is no message")
        return message

    def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.stream.settimeout(max(0.001, self.next_check - self.waited))
            started = time.monotonic()
            try:
                part = self.stream.recv(1 << 16)
                if not part:
                    raise EOFError("the stream ended")
                self.buffer += part
            except TimeoutError:
                if self.waited > self.limits.wall_seconds + START_SECONDS:
                    raise SandboxFailed("the supervisor did not keep to the wall time") from None
                self.on_wait(f"waited {self.next_check}")
                self.next_check += self.limits.cpu_seconds
            except OSError as error:
                raise EOFError(str(error)) from None
            finally:
                self.waited += time.monotonic() - started
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken


def supervisor_command(isolation: Isolation, control: int) -> list[str]:
    """Return the supervisor's command line."""
    config = {name: getattr(isolation, name) for name in CONFIGURED}
    config["readable"] = [*isolation.libraries, *isolation.extra]
    # Parent of the candidates' folders
    config["folder"] = tempfile.gettempdir() if isolation.level == "C" else ""
    root = "/judge" if isolation.level == "A" else str(REPOSITORY_ROOT)
    script = f"{root}/stages/judge/sandbox/supervisor.py"
    python = [isolation.python, *PYTHON_FLAGS, script, root, str(control), json.dumps(config)]
    if isolation.level != "A":
        return python
    ours = ((str(SANDBOX_FOLDER / name), f"/judge/stages/judge/sandbox/{name}") for name in MOUNTED_FILES)
    return [
        *(isolation.bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"),
        *("--hostname", "sandbox", "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--clearenv", "--setenv", "PYTHONHASHSEED", "0"),
        *("--size", str(16 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *(word for pair in ours for word in ("--ro-bind", *pair)),
        *(word for path in isolation.libraries for word in ("--ro-bind", path, path)),
        *(word for path in isolation.hidden for word in ("--tmpfs", path)),
        *(word for path in isolation.extra for word in ("--ro-bind", path, path)),
        *("--dev-bind", kernel.NULL_DEVICE, kernel.NULL_DEVICE),
        *(word for path in (*isolation.hidden, "/") for word in ("--remount-ro", path)),
        *("--", *python),
    ]
