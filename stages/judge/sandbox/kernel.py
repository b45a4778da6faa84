"""Confine a process by the kernel: resource limits, Landlock, capabilities; see `seccomp` for system calls.

Calls go through ctypes, so that the sandbox needs only an interpreter.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Sequence
from functools import cache

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 38, 24, 36, 1
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
# Rights of Landlock; EXECUTE is given nowhere
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
M_ARENA_MAX = -8
NULL_DEVICE = "/dev/null"


class KernelRefused(OSError):
    """The kernel refused a call."""


@cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def require_success(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"{what}: {os.strerror(number)}")
    return result


def limit_resources(cpu_seconds: float, memory_bytes: int, threads: bool) -> None:
    """Set hard limits. A lower one that the process already has stays, since raising it is refused.

    Args:
        threads: whether the program may start threads. They count as processes of the user, in all programs
            together, so seccomp alone refuses processes then.
    """
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 1 << 20,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not threads:
        wanted[resource.RLIMIT_NPROC] = 0  # not enforced for the host's uid 0, where seccomp refuses clone
    for name, value in wanted.items():
        lower_limit(name, value, value)
    seconds = int(cpu_seconds) + 2  # a safeguard: the supervisor kills at the exact limit
    lower_limit(resource.RLIMIT_CPU, seconds, seconds + 1)


def use_one_arena() -> None:
    """Keep glibc from reserving 64 MiB of address space per thread."""
    with contextlib.suppress(AttributeError):
        libc().mallopt(M_ARENA_MAX, 1)


def lower_limit(name: int, soft: int, hard: int) -> None:
    present = resource.getrlimit(name)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(name, (soft, hard))


def drop_user(user: int) -> None:
    """Become a user that owns nothing."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop_capabilities() -> None:
    """Drop every capability of this process and of its bounding set."""
    c = libc()
    for capability in range(64):
        c.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    require_success(c.capset(header, bytes(24)), "capset")


def no_new_privileges() -> None:
    require_success(libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def kill_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    require_success(libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that this process can end them."""
    require_success(libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "child subreaper")


def landlock_version() -> int:
    """Return the kernel's Landlock version, 0 if it has none."""
    return max(0, libc().syscall(CREATE_RULESET, None, 0, 1))


def landlock_ruleset(
    readable: Sequence[str], writable: Sequence[str] = (), listed: Sequence[str] = ()
) -> int:
    """Return a ruleset's descriptor: read below `readable`, write below `writable`, list below `listed`.

    /dev/null can be read and written. All other files, TCP, and signals to processes outside are refused.

    Raises:
        KernelRefused: the kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        raise KernelRefused(errno.ENOSYS, "Landlock: the kernel has none")
    files = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    attribute = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    c = libc()
    ruleset = require_success(c.syscall(CREATE_RULESET, attribute[:size], size, 0), "landlock_create_ruleset")
    device = files & (READ_FILE | WRITE_FILE | TRUNCATE)
    rules = ((readable, READ_FILE | READ_DIR), (writable, files), (listed, READ_DIR), ([NULL_DEVICE], device))
    for paths, access in rules:
        for path in paths:
            allow_beneath(c, ruleset, path, access)
    return ruleset


def enter_landlock(ruleset: int) -> None:
    """Put this process under a ruleset, for good."""
    no_new_privileges()
    require_success(libc().syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")


def allow_beneath(c: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            access &= READ_FILE | WRITE_FILE | TRUNCATE
        rule = struct.pack("=Qi", access, descriptor)
        require_success(c.syscall(ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(descriptor)
