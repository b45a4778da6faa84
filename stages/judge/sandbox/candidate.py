"""The forked process once it is confined: load a program and answer calls of its entry point."""

import _ast
import json
import os
import random
import sys
import types
from functools import partial
from typing import Any

from stages.judge.sandbox import script, values

START_ATTEMPTS = 20
READ_BYTES = 1 << 16
SOURCE_NAME = "<solution>"
DEFINITIONS = "Import ImportFrom FunctionDef AsyncFunctionDef ClassDef Assign AnnAssign Try"


class StreamClosed(Exception):
    """The judge closed the stream."""


def receive_message(stream: int) -> dict[str, Any]:
    """Return one message of the judge, which sends the next only after the answer."""
    data, size = bytearray(), values.FRAME_HEADER.size
    while len(data) < size:
        part = os.read(stream, READ_BYTES)
        if not part:
            raise StreamClosed
        data += part
        if len(data) >= values.FRAME_HEADER.size:
            size = values.FRAME_HEADER.size + values.FRAME_HEADER.unpack_from(data)[0]
    return json.loads(data[values.FRAME_HEADER.size :])


def send_message(stream: int, message: dict[str, Any]) -> None:
    data = memoryview(values.encode_frame(message))
    if len(data) > values.MAX_FRAME_BYTES:
        data = memoryview(values.encode_frame({"id": message.get("id"), "large": len(data)}))
    while data:
        data = data[os.write(stream, data) :]


def describe_error(error: BaseException) -> list[str]:
    """Return type, nearest built-in type and message of an exception, whose `str` may be hostile code."""
    kind = type(error)
    builtin = next((c.__name__ for c in kind.__mro__ if c.__module__ == "builtins"), "Exception")
    try:
        message = str(error)[:500]
    except BaseException:
        message = "(its text cannot be made)"
    return [str(kind.__name__)[:100], builtin, message.encode("utf-8", "replace").decode()]


def run_candidate(stream: int) -> None:
    """Load a program, then answer calls of its entry point until the judge closes the stream."""
    try:
        job = receive_message(stream)
        random.seed(job["seed"])
        adapt_library(str(job["program"]))
        function = load_program(stream, job)
        if function is not None:
            while True:
                asked = receive_message(stream)
                for number, (arguments, keywords) in enumerate(asked["calls"], asked["id"]):
                    if not answer(stream, function, number, arguments, keywords, asked["watched"]):
                        break
    except StreamClosed:
        return


def adapt_library(program: str) -> None:
    """Have asyncio and thread pools use a pipe and plain locks, where they would use sockets and shared memory.

    A thread that cannot start waits for others to end: `join` returns before their stacks are given back.
    """
    if "thread" in program.lower() or "concurrent" in program:
        import threading
        import time

        start = threading._start_new_thread  # type: ignore[attr-defined]

        def start_patiently(*arguments: Any) -> Any:
            for attempt in range(START_ATTEMPTS):
                try:
                    return start(*arguments)
                except RuntimeError:
                    if attempt == START_ATTEMPTS - 1:
                        raise
                    time.sleep(0.002)

        threading._start_new_thread = start_patiently  # type: ignore[attr-defined]
    if "asyncio" in program:
        import selectors
        from asyncio import selector_events

        selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc,assignment]
        selector_events.BaseSelectorEventLoop._make_self_pipe = make_self_pipe  # type: ignore[attr-defined]
    if "multiprocessing" in program:
        import threading
        from multiprocessing import context

        context.BaseContext.Lock = lambda self: threading.Lock()  # type: ignore[method-assign,assignment,return-value]


class PipeEnd:
    """An end of a pipe with what asyncio asks of a socket."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.fileno = lambda: descriptor
        self.close = lambda: os.close(descriptor)
        self.send = lambda data: os.write(descriptor, data)
        self.recv = lambda size: os.read(descriptor, size)


def make_self_pipe(loop: Any) -> None:
    """Stand in for asyncio's method of this name (Python 3.11 to 3.14)."""
    loop._ssock, loop._csock = map(PipeEnd, os.pipe())
    loop._internal_fds += 1
    loop._add_reader(loop._ssock.fileno(), loop._read_from_self)


def load_program(stream: int, job: dict[str, Any]) -> Any:
    module = types.ModuleType("solution")  # in sys.modules, where dataclasses look up their module
    sys.modules["solution"] = module
    names = module.__dict__
    stage, dropped = "syntax", ""
    try:
        source = values.decode_value(job["program"])
        compile(source, SOURCE_NAME, "exec", dont_inherit=True)
        stage = "load"
        if job.get("prelude"):
            exec(script.PRELUDE, names)
        if job.get("script"):
            code = compile(source, SOURCE_NAME, "exec", dont_inherit=True)
            function = partial(script.run_script, code, dict(names))
        else:
            dropped = run_module(source, names, job.get("definitions", False))
            function = entry_of(names, job["entry_point"])
        if job.get("test") is not None:
            stage = "test"
            exec(compile(job["test"], "<test>", "exec", dont_inherit=True), names)
            check = names["check"]
            names[job["entry_point"]] = function
            check(function)
    except BaseException as error:
        send_message(stream, {"stage": stage, "error": describe_error(error), "dropped": dropped})
        return None
    send_message(stream, {"stage": "ready" if callable(function) else "entry", "dropped": dropped})
    return function if callable(function) else None


def entry_of(names: dict[str, Any], entry_point: str) -> Any:
    """Return the function of that name, or a method of a new object of its class; also without the class."""
    owner, _, method = entry_point.partition(".")
    return getattr(names[owner](), method, None) if method and owner in names else names.get(method or owner)


def run_module(source: str, names: dict[str, Any], definitions: bool) -> str:
    """Run a module, or its `definitions` alone, but for statements that fail; return the first failure."""
    tree: Any = compile(source, SOURCE_NAME, "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
    body = [node for node in tree.body if not definitions or type(node).__name__ in DEFINITIONS.split()]
    future = [node for node in body if getattr(node, "module", "") == "__future__"]
    first = ""
    while body:
        tree.body = body
        try:
            exec(compile(tree, SOURCE_NAME, "exec", dont_inherit=True), names)
            break
        except (Exception, SystemExit) as error:
            trace = error.__traceback__
            while trace and trace.tb_frame.f_globals is not names:
                trace = trace.tb_next
            if trace is None:
                raise
            first = first or ": ".join(filter(None, describe_error(error)[::2]))
            failed = next(i for i, node in enumerate(body) if node.end_lineno >= trace.tb_lineno)
            body = future + body[failed + 1 :]
    return first


def answer(stream: int, function: Any, number: int, arguments: Any, keywords: Any, watched: bool) -> bool:
    """Answer a call: its value, or its exception; return whether there was a value.

    Arguments are decoded anew for each call, so that a change in place reaches no other; if the call is `watched`
    the answer tells which list, dict and set arguments it changed.
    """
    reply: dict[str, Any] = {"id": number}
    try:
        given = values.decode_value(arguments)
        reply["value"] = values.encode_value(function(*given, **values.decode_value(keywords)))
        if watched:
            after = {
                i: values.encode_value(a) for i, a in enumerate(given) if isinstance(a, list | dict | set)
            }
            reply["changed"] = {i: form for i, form in after.items() if form != arguments[i + 1]}
        send_message(stream, reply)
        return True
    except values.TooDeep as error:
        reply = {"id": number, "deep": str(error)}
    except StreamClosed:
        raise
    except BaseException as error:  # also for want of memory, before anything was written
        reply = {"id": number, "error": describe_error(error)}
    send_message(stream, reply)
    return False
