"""What the forked process does once it is confined: loads a program, and answers calls of its entry point."""

import json
import os
import random
import sys
import types
from typing import Any

from stages.judge.sandbox import values

CHUNK = 1 << 16
BATCH_BYTES = 1 << 20  # of values in one message, unless a single one is longer


class Ended(Exception):
    """The judge closed the stream."""


def receive(stream: int) -> dict[str, Any]:
    """One message of the judge, who sends no other before it is answered."""
    data = read(stream)
    while len(data) < values.HEADER.size:
        data += read(stream)
    size = values.HEADER.size + values.HEADER.unpack_from(data)[0]
    parts, got = [data], len(data)
    while got < size:
        parts.append(read(stream))
        got += len(parts[-1])
    return json.loads(b"".join(parts)[values.HEADER.size :])


def read(stream: int) -> bytes:
    part = os.read(stream, CHUNK)
    if not part:
        raise Ended
    return part


def send(stream: int, message: dict[str, Any]) -> None:
    data = memoryview(values.frame(message))
    if len(data) > values.MAX_BYTES:
        data = memoryview(values.frame({"id": message.get("id"), "large": len(data)}))
    while data:
        data = data[os.write(stream, data) :]


def failure(error: BaseException) -> list[str]:
    """Type, the nearest built-in type, and text of an exception; the text may be hostile too."""
    kind = type(error)
    builtin = next((c.__name__ for c in kind.__mro__ if c.__module__ == "builtins"), "Exception")
    try:
        words = str(error)[:500]
    except BaseException:
        words = "(its text cannot be made)"
    return [str(kind.__name__)[:100], builtin, words.encode("utf-8", "replace").decode()]


def candidate(stream: int) -> None:
    """Load a program, then answer calls of its entry point until the judge closes the stream."""
    try:
        job = receive(stream)
        random.seed(job["seed"])
        function = load(stream, job)
        if function is not None:
            while True:
                call = receive(stream)
                (answer_batch if "batch" in call else answer)(stream, function, call)
    except Ended:
        return


def load(stream: int, job: dict[str, Any]) -> Any:
    module = types.ModuleType("solution")  # in sys.modules, since dataclasses look their module up
    sys.modules["solution"] = module
    stage = "syntax"
    try:
        code = compile(values.decode(job["program"]), "<solution>", "exec", dont_inherit=True)
        stage = "load"
        exec(code, module.__dict__)
        function = module.__dict__.get(job["entry_point"])
        if job.get("test") is not None:
            stage = "test"
            exec(compile(job["test"], "<test>", "exec", dont_inherit=True), module.__dict__)
            check = module.__dict__["check"]
            module.__dict__[job["entry_point"]] = function
            check(function)
    except BaseException as error:
        send(stream, {"stage": stage, "error": failure(error)})
        return None
    send(stream, {"stage": "ready" if callable(function) else "entry"})
    return function if callable(function) else None


def answer(stream: int, function: Any, call: dict[str, Any]) -> None:
    """One call: its value, or its exception, and list, dict and set arguments that it changed in place."""
    reply: dict[str, Any] = {"id": call["id"]}
    try:
        arguments = values.decode(call["arguments"])
        keywords = values.decode(call["keywords"])
        reply["value"] = values.encode(function(*arguments, **keywords))
        after = [values.encode(a) if isinstance(a, list | dict | set) else None for a in arguments]
        changed = {
            i: form for i, form in enumerate(after) if form is not None and form != call["arguments"][i + 1]
        }
        if changed:
            reply["changed"] = {str(i): form for i, form in changed.items()}
    except values.TooDeep as error:
        reply = {"id": call["id"], "deep": str(error)}
    except BaseException as error:
        reply = {"id": call["id"], "error": failure(error)}
    try:
        send(stream, reply)
    except MemoryError as error:  # in the encoding, before anything was written
        reply = {"id": call["id"], "error": failure(error)}
        send(stream, reply)


def answer_batch(stream: int, function: Any, call: dict[str, Any]) -> None:
    """Many calls of one message: values in order, in few messages, up to the first exception.

    Arguments are decoded for each call, so that no change of them reaches another.
    """
    waiting: list[Any] = []
    size = 0
    last: dict[str, Any] = {}
    for arguments in call["batch"]:
        try:
            form = values.encode(function(*values.decode(arguments)))
            length = len(json.dumps(form))
        except values.TooDeep as error:
            last = {"deep": str(error)}
            break
        except BaseException as error:
            last = {"error": failure(error)}
            break
        if waiting and size + length > BATCH_BYTES:
            send(stream, {"values": waiting, "more": True})
            waiting, size = [], 0
        waiting.append(form)
        size += length
    send(stream, {"values": waiting, **last})
