"""Run a program that reads standard input and writes standard output, in the confined process.

Its streams are in memory, whichever way it reaches them: sys.stdin and its buffer, input, open(0), os.read.
Many tests of one program run in one process, each in a module of its own.
"""

import atexit
import builtins
import contextlib
import io
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages.judge.sandbox import values

MAX_OUTPUT_BYTES = 3 << 20  # below what a reply may have
STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io "
    "sys json builtins typing"
)
NAMED = (
    "string, re, datetime, collections, heapq, bisect, copy, math, random, itertools, functools, sys, json"
)
# What LiveCodeBench imports before a solution; builtins hide what math and operator hid
PRELUDE = "\n".join(
    (
        *(f"from {name} import *" for name in STARRED.split()),
        f"import {NAMED}",
        "sys.setrecursionlimit(50000)",
    )
)
STANDARD: dict[Any, int] = {0: 0, 1: 1, 2: 2, "/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


class Stream(io.BytesIO):
    """A standard stream, which stays open, and refuses bytes beyond MAX_OUTPUT_BYTES."""

    def __init__(self, number: int, data: bytes = b"") -> None:
        super().__init__(data)
        self.number, self.full = number, False

    def fileno(self) -> int:
        return self.number

    def close(self) -> None:
        self.flush()

    def write(self, data: Any) -> int:
        self.full = self.full or self.tell() + memoryview(data).nbytes > MAX_OUTPUT_BYTES
        if self.full:
            raise values.TooDeep(f"more than {MAX_OUTPUT_BYTES} bytes of output")
        return super().write(data)


def run_script(code: types.CodeType, names: dict[str, Any], text: str) -> str:
    """Return what a program writes to standard output, given `text` on standard input.

    Its exit status does not count. Exceptions propagate.

    Raises:
        values.TooDeep: it wrote too much.
    """
    streams = [Stream(0, text.encode("utf-8", "surrogatepass")), Stream(1), Stream(2)]
    module = types.ModuleType("__main__")
    own = {name: value for name, value in names.items() if not hasattr(builtins, name)}
    sys.modules["__main__"] = module
    with standard_streams(streams):
        own |= {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
        module.__dict__.update(own, __name__="__main__")
        with contextlib.suppress(SystemExit):
            exec(code, module.__dict__)
        threads = sys.modules.get("threading")
        for thread in threads.enumerate() if threads else ():
            if thread is not threads.main_thread() and not thread.daemon:  # type: ignore[union-attr]
                thread.join()
        atexit._run_exitfuncs()
        with contextlib.suppress(AttributeError, ValueError):  # replaced, or closed
            sys.stdout.flush()
    if streams[1].full:
        raise values.TooDeep(f"more than {MAX_OUTPUT_BYTES} bytes of output")
    return streams[1].getvalue().decode("utf-8", "replace")


@contextmanager
def standard_streams(streams: list[Stream]) -> Iterator[None]:
    """Put streams in the place of the three standard ones, for Python's ways to reach them."""
    read, write, stat, opened = os.read, os.write, os.fstat, io.open

    def fake_fstat(descriptor: int) -> os.stat_result:
        found = list(stat(descriptor))
        if descriptor == 0:
            found[6] = len(streams[0].getvalue())
        return os.stat_result(found)

    def fake_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        number = STANDARD.get(file) if isinstance(file, str | int) else None
        if number is None:
            return opened(file, mode, *arguments, **keywords)
        return streams[number] if "b" in mode else wrapped(streams[number])

    replaced: list[tuple[Any, str, Any]] = [
        *(
            (sys, name, wrapped(one))
            for name, one in zip(("stdin", "stdout", "stderr"), streams, strict=True)
        ),
        *((place, "open", fake_open) for place in (builtins, io)),
        *((builtins, name, sys.exit) for name in ("exit", "quit")),  # site's, which the sandbox does not load
        (os, "read", lambda fd, size: streams[0].read(size) if fd == 0 else read(fd, size)),
        (os, "write", lambda fd, data: streams[fd].write(data) if fd in (1, 2) else write(fd, data)),
        (os, "fstat", fake_fstat),
    ]
    before = [(place, name, getattr(place, name, None)) for place, name, _ in replaced]
    try:
        for place, name, value in replaced:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def wrapped(stream: Stream) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, "utf-8", "surrogateescape", write_through=True)
