"""Confine a process by the kernel: resource limits, Landlock, seccomp, capabilities.

Calls go through ctypes, so that the sandbox needs only an interpreter. The seccomp filter is a list of what
is allowed: a system call that a later kernel adds is refused until it is listed here.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import struct
from collections.abc import Sequence
from functools import cache

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
CLONE3 = 435

# name: x86_64, aarch64 (None: that architecture has no such call). No fork, exec, socket, ptrace, prctl,
# chmod, link, mount, memfd, io_uring, keyctl, bpf, shared memory, and no signal to others; no utimensat,
# which Landlock lets through; no lock on a file and no mincore, by which candidates could talk.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None), "select": (23, None),
    "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172),
    "exit": (60, 93), "uname": (63, 160), "fsync": (74, 82), "fdatasync": (75, 83),
    "ftruncate": (77, 46), "getdents": (78, None), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None),
    "creat": (85, None), "unlink": (87, None), "readlink": (89, None), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175),
    "getegid": (108, 177), "getppid": (110, 173), "getpgrp": (111, None), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155), "getsid": (124, 156),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "gettid": (186, 178),
    "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "mkdirat": (258, 34), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "readlinkat": (267, 78), "faccessat": (269, 48),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "fallocate": (285, 47), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69),
    "pwritev": (296, 70), "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278),
    "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip

# name: numbers, the argument that is checked, and its allowed values ("self": this process, or 0 where that
# means it)
CONDITIONAL: dict[str, tuple[tuple[int, int], int, tuple[int, ...] | str]] = {
    "kill": ((62, 129), 0, "self"),
    "tgkill": ((234, 131), 0, "self"),
    "prlimit64": ((302, 261), 0, "self"),
    "ioctl": ((16, 29), 1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),  # TCGETS FIONREAD FIONBIO FIONCLEX FIOCLEX
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),  # no lock, owner, signal, lease, pipe size or seal
}  # fmt: skip
OPENS = (((2, None), 1), ((257, 56), 2))  # open, openat: numbers, and the argument that holds the flags
CLONE = (56, 220)
# Of a thread in glibc and in musl: it shares all with the process, so no other kind of clone passes
THREAD_FLAGS = (0x3D0F00, 0x7D0F00)

UNKNOWN_PID = 0x7FFFFFFF  # placeholder in the filter's template; no process has it
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, ASK, FAIL, KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
SECCOMP = {"x86_64": 317, "aarch64": 277}
NOTIFY_RECEIVE, NOTIFY_SEND = 0xC0502100, 0xC0182101
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = (
    38,
    22,
    24,
    36,
    1,
)
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


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


REFUSE = instruction(RETURN, FAIL | errno.EPERM)


def seccomp_program(machine: str, pid: int, threads: bool = False) -> bytes:
    """Return the BPF filter for a machine (`os.uname().machine`) and the process that will run under it.

    Opening for reading with O_TRUNC is refused: it empties a file, and Landlock before version 3 lets it pass.
    """
    column = list(ARCHITECTURES).index(machine)
    program = [
        instruction(LOAD, 4),
        instruction(JUMP_EQUAL, ARCHITECTURES[machine], 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, 0),
        instruction(JUMP_EQUAL, CLONE3, 0, 1),
        instruction(RETURN, FAIL | errno.ENOSYS),  # the C library then tries clone, which is refused
    ]
    for numbers_of, argument in OPENS:
        if (number := numbers_of[column]) is not None:
            flags = [instruction(LOAD, 16 + 8 * argument), instruction(AND, os.O_TRUNC | os.O_ACCMODE)]
            refused = instruction(JUMP_EQUAL, os.O_TRUNC | os.O_RDONLY, 0, 1)
            body = [*flags, refused, REFUSE, instruction(RETURN, ALLOW)]
            program += [instruction(JUMP_EQUAL, number, 0, len(body)), *body]
    conditional = {**CONDITIONAL, **({"clone": (CLONE, 0, THREAD_FLAGS)} if threads else {})}
    for name, (both, argument, values) in conditional.items():
        if isinstance(values, str):
            values = (0, pid) if name == "prlimit64" else (pid,)
        tests = [
            step for v in values for step in (instruction(JUMP_EQUAL, v, 0, 1), instruction(RETURN, ALLOW))
        ]
        body = [instruction(LOAD, 16 + 8 * argument), *tests, REFUSE]
        program += [instruction(JUMP_EQUAL, both[column], 0, len(body)), *body]
    numbers = sorted(number for pair in ALLOWED.values() if (number := pair[column]) is not None)
    return b"".join([*program, *allow_ranges(number_ranges(numbers))])


def number_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of consecutive numbers; `numbers` is sorted."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        first = found.pop()[0] if found and found[-1][1] == number - 1 else number
        found.append((first, number))
    return found


def allow_ranges(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return instructions that allow a number within one of the ranges, by binary search.

    The kernel runs a new filter on every number when it is installed; with a hundred comparisons in a row
    that takes a third of a millisecond per candidate.
    """
    if len(ranges) == 1:
        (first, last), allow = ranges[0], instruction(RETURN, ALLOW)
        return [
            instruction(JUMP_AT_LEAST, first, 0, 1),
            instruction(JUMP_AT_LEAST, last + 1, 0, 1),
            REFUSE,
            allow,
        ]
    half = len(ranges) // 2
    lower_limit = allow_ranges(ranges[:half])
    return [
        instruction(JUMP_AT_LEAST, ranges[half][0], len(lower_limit), 0),
        *lower_limit,
        *allow_ranges(ranges[half:]),
    ]


def seccomp_template(threads: bool = False) -> bytes:
    """Return the filter for this machine, with UNKNOWN_PID in place of a process's own id.

    Raises:
        KernelRefused: there is no table for this machine.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise KernelRefused(errno.ENOSYS, f"seccomp: no table for {machine}")
    return seccomp_program(machine, UNKNOWN_PID, threads)


def for_process(template: bytes, pid: int) -> bytes:
    return template.replace(struct.pack("=I", UNKNOWN_PID), struct.pack("=I", pid))


def enter_seccomp(template: bytes) -> None:
    """Install the filter for this process, for good.

    Raises:
        KernelRefused: the kernel has no seccomp.
    """
    program = for_process(template, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    require_success(libc().prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")


def ask_for_threads() -> int:
    """Have every thread of this process wait for leave to start and to end; return the descriptor that gives it.

    The filter of `enter_seccomp`, installed after this one, refuses whatever is not a thread.

    Raises:
        KernelRefused: the kernel cannot (before Linux 5.5, or in a sandbox of its own).
    """
    machine = os.uname().machine
    start, end = (both[list(ARCHITECTURES).index(machine)] for both in (CLONE, ALLOWED["exit"]))
    steps = [
        instruction(LOAD, 0),
        instruction(JUMP_EQUAL, start or 0, 1, 0),
        instruction(JUMP_EQUAL, end or 0, 0, 1),
    ]
    program = b"".join([*steps, instruction(RETURN, ASK), instruction(RETURN, ALLOW)])
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    return require_success(libc().syscall(SECCOMP[machine], 1, 8, header), "seccomp listener")


def answer_thread(listener: int, allow: bool) -> int:
    """Let a thread end, or start where that is allowed; return the change of their number."""
    request = bytearray(80)
    try:
        fcntl.ioctl(listener, NOTIFY_RECEIVE, request)
        starts = struct.unpack_from("=i", request, 16)[0] in CLONE
        error, flags = (-errno.EAGAIN, 0) if starts and not allow else (0, 1)
        (number,) = struct.unpack_from("=Q", request)
        fcntl.ioctl(listener, NOTIFY_SEND, struct.pack("=QqiI", number, 0, error, flags))
    except OSError:  # the process is gone
        return 0
    return int(not error) if starts else -1
