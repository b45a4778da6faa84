"""The seccomp filters: what is allowed is listed, and a system call that a later kernel adds is refused.

Classic BPF (linux/filter.h, linux/seccomp.h) by ctypes, so that the sandbox needs only an interpreter.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from stages.judge.sandbox import kernel

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
# Name, and number on x86_64 and aarch64 (-: it has no such call). No fork, exec, socket, ptrace, prctl, chmod,
# link, mount, memfd, io_uring, keyctl, bpf, shared memory, and no signal to others; no utimensat, which Landlock
# lets through; no lock on a file and no mincore, by which candidates could talk.
LISTED = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222,
mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, pipe 22 -,
select 23 -, sched_yield 24 124, mremap 25 216, msync 26 227, madvise 28 233, dup 32 23, dup2 33 -,
pause 34 -, nanosleep 35 101, getitimer 36 102, alarm 37 -, setitimer 38 103, getpid 39 172, exit 60 93,
uname 63 160, fsync 74 82, fdatasync 75 83, ftruncate 77 46, getdents 78 -, getcwd 79 17, chdir 80 49,
fchdir 81 50, rename 82 -, mkdir 83 -, rmdir 84 -, creat 85 -, unlink 87 -, readlink 89 -, umask 95 166,
gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174,
getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, getpgrp 111 -, getgroups 115 158,
getresuid 118 148, getresgid 120 150, getpgid 121 155, getsid 124 156, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, statfs 137 43, fstatfs 138 44,
getpriority 140 141, sched_getparam 143 121, sched_getscheduler 145 120, gettid 186 178, time 201 -,
futex 202 98, sched_getaffinity 204 123, getdents64 217 61, set_tid_address 218 96,
restart_syscall 219 128, fadvise64 221 223, clock_gettime 228 113, clock_getres 229 114,
clock_nanosleep 230 115, exit_group 231 94, mkdirat 258 34, newfstatat 262 79, unlinkat 263 35,
renameat 264 38, readlinkat 267 78, faccessat 269 48, pselect6 270 72, ppoll 271 73,
set_robust_list 273 99, fallocate 285 47, dup3 292 24, pipe2 293 59, preadv 295 69, pwritev 296 70,
getcpu 309 168, renameat2 316 276, getrandom 318 278, statx 332 291, rseq 334 293, close_range 436 436,
faccessat2 439 439
"""
ALLOWED: dict[str, tuple[int | None, ...]] = {
    name: tuple(None if number == "-" else int(number) for number in numbers)
    for name, *numbers in (entry.split() for entry in LISTED.split(","))
}
# name: numbers, the argument that is checked, and its allowed values ("self": this process, or 0 where that
# means it)
CONDITIONAL: dict[str, tuple[tuple[int, int], int, tuple[int, ...] | str]] = {
    "kill": ((62, 129), 0, "self"),
    "tgkill": ((234, 131), 0, "self"),
    "prlimit64": ((302, 261), 0, "self"),
    "ioctl": (
        (16, 29),
        1,
        (0x5401, 0x541B, 0x5421, 0x5450, 0x5451),
    ),  # TCGETS FIONREAD FIONBIO FIONCLEX FIOCLEX
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),  # no lock, owner, signal, lease, pipe size or seal
}
# Numbers, and the argument of the flags
OPENS: tuple[tuple[tuple[int | None, ...], int], ...] = (((2, None), 1), ((257, 56), 2))
CLONE, CLONE3 = (56, 220), 435
# Of a thread in glibc and in musl: it shares all with the process, so no other kind of clone passes
THREAD_FLAGS = (0x3D0F00, 0x7D0F00)

UNKNOWN_PID = 0x7FFFFFFF  # placeholder in the filter's template; no process has it
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, ASK, FAIL, KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
SECCOMP = {"x86_64": 317, "aarch64": 277}
NOTIFY_RECEIVE, NOTIFY_SEND = 0xC0502100, 0xC0182101


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


REFUSE = instruction(RETURN, FAIL | errno.EPERM)
PASS = instruction(RETURN, ALLOW)


def by_argument(
    number: int, argument: int, values: Sequence[int], hit: bytes, other: bytes, mask: int = 0xFFFFFFFF
) -> list[bytes]:
    """Return instructions that end a call by the value of an argument, and pass over other calls."""
    tests = [step for value in values for step in (instruction(JUMP_EQUAL, value, 0, 1), hit)]
    body = [instruction(LOAD, 16 + 8 * argument), instruction(AND, mask), *tests, other]
    return [instruction(JUMP_EQUAL, number, 0, len(body)), *body]


def seccomp_program(machine: str, pid: int, threads: bool = False) -> bytes:
    """Return the BPF filter for a machine (`os.uname().machine`) and the process that will run under it.

    Opening for reading with O_TRUNC is refused: it empties a file, and Landlock before version 3 lets it pass.

    Raises:
        KernelRefused: there is no table for this machine.
    """
    if machine not in ARCHITECTURES:
        raise kernel.KernelRefused(errno.ENOSYS, f"seccomp: no table for {machine}")
    column = list(ARCHITECTURES).index(machine)
    program = [
        instruction(LOAD, 4),
        instruction(JUMP_EQUAL, ARCHITECTURES[machine], 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, 0),
        instruction(JUMP_EQUAL, CLONE3, 0, 1),
        instruction(RETURN, FAIL | errno.ENOSYS),  # the C library then tries clone, which is refused
    ]
    for both, argument in OPENS:
        if (opens := both[column]) is not None:
            program += by_argument(opens, argument, [os.O_TRUNC], REFUSE, PASS, os.O_TRUNC | os.O_ACCMODE)
    conditional = {**CONDITIONAL, **({"clone": (CLONE, 0, THREAD_FLAGS)} if threads else {})}
    for name, (numbers, argument, values) in conditional.items():
        if isinstance(values, str):
            values = (0, pid) if name == "prlimit64" else (pid,)
        program += by_argument(numbers[column], argument, values, PASS, REFUSE)
    listed = sorted(number for entry in ALLOWED.values() if (number := entry[column]) is not None)
    ranges: list[tuple[int, int]] = []
    for number in listed:
        first = ranges.pop()[0] if ranges and ranges[-1][1] == number - 1 else number
        ranges.append((first, number))
    return b"".join([*program, *allow_ranges(ranges)])


def allow_ranges(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return instructions that allow a number within one of the ranges, by binary search.

    The kernel runs a new filter on every number when it is installed; with a hundred comparisons in a row
    that takes a third of a millisecond per candidate.
    """
    if len(ranges) == 1:
        ((first, last),) = ranges
        return [
            instruction(JUMP_AT_LEAST, first, 0, 1),
            instruction(JUMP_AT_LEAST, last + 1, 0, 1),
            REFUSE,
            PASS,
        ]
    half = len(ranges) // 2
    below = allow_ranges(ranges[:half])
    return [instruction(JUMP_AT_LEAST, ranges[half][0], len(below), 0), *below, *allow_ranges(ranges[half:])]


def seccomp_template(threads: bool = False) -> bytes:
    """Return the filter for this machine, with UNKNOWN_PID in place of a process's own id."""
    return seccomp_program(os.uname().machine, UNKNOWN_PID, threads)


def for_process(template: bytes, pid: int) -> bytes:
    return template.replace(struct.pack("=I", UNKNOWN_PID), struct.pack("=I", pid))


def enter_seccomp(template: bytes) -> None:
    """Install the filter for this process, for good.

    Raises:
        KernelRefused: the kernel has no seccomp.
    """
    install(for_process(template, os.getpid()), 0, "seccomp")


def install(program: bytes, flags: int, what: str) -> int:
    """Install a filter for this process; return the kernel's answer."""
    kernel.no_new_privileges()
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    return kernel.require_success(kernel.libc().syscall(SECCOMP[os.uname().machine], 1, flags, header), what)


def ask_for_threads() -> int:
    """Have every thread of this process wait for leave to start and to end; return the descriptor that gives it.

    The filter of `enter_seccomp`, installed after this one, refuses whatever is not a thread.

    Raises:
        KernelRefused: the kernel cannot (before Linux 5.5, or in a sandbox of its own).
    """
    machine = os.uname().machine
    start, end = (numbers[list(ARCHITECTURES).index(machine)] or 0 for numbers in (CLONE, ALLOWED["exit"]))
    steps = [
        instruction(LOAD, 0),
        instruction(JUMP_EQUAL, start, 1, 0),
        instruction(JUMP_EQUAL, end, 0, 1),
        instruction(RETURN, ASK),
        PASS,
    ]
    return install(b"".join(steps), 8, "seccomp listener")


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
