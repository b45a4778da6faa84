"""The benchmark's test program, run on the judge's side with the candidate replaced by a stub."""

import ast
import builtins
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

from stages.common.schema import Problem
from stages.judge import oracles
from stages.judge.extract.program import preamble
from stages.judge.sandbox import values
from stages.judge.sandbox.host import Candidate


class CandidateEnded(BaseException):
    """The candidate can answer no more; no `except Exception` of a test may swallow it."""


class TestTooLong(BaseException):
    """The test program did not end on the candidate's answers."""


FORGED = "the candidate's process wrote a reply of its own"


class Stub:
    """Stands in for the entry point: each call goes to the candidate and comes back as a value or an exception."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.calls = 0
        self.failure: tuple[str, str] | None = None  # verdict and reason that no later answer can mend
        self.raised: list[BaseException] = []  # exceptions of the candidate, as the test saw them
        self.opaque = ""  # type of an answer that has no value here

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.failure:
            raise CandidateEnded
        self.calls += 1
        if any(isinstance(a, values.Opaque) for a in (*arguments, *keywords.values())):
            self.fail("unsupported_value", f"an answer of type {self.opaque} was given back as an argument")
        form = values.encode(arguments, strict=True)
        call = {"id": self.calls, "arguments": form, "keywords": values.encode(keywords, strict=True)}
        reply = self.exchange(call)
        if reply.get("id") != self.calls:
            self.fail("exception", FORGED)
        self.refused(reply)
        return self.value(reply, arguments)

    def batch(self, calls: Sequence[Any]) -> Iterator[Any]:
        """Answers to many calls, which go in one message; up to the first exception, which is raised.

        Args:
            calls: the arguments of each call, encoded.
        """
        reply = self.exchange({"id": 0, "batch": calls})
        while self.calls < len(calls):
            forms = reply.get("values", [])
            if not isinstance(forms, list) or len(forms) > len(calls) - self.calls:
                self.fail("exception", FORGED)
            for form in forms:
                self.calls += 1
                yield self.value({"value": form}, ())
            if self.calls < len(calls):
                self.refused(reply)
                if not forms or not reply.get("more"):
                    self.fail("exception", FORGED)
                reply = self.exchange()

    def refused(self, reply: dict[str, Any]) -> None:
        """Raise what a reply holds instead of a value."""
        if "error" in reply:
            raise self.exception(*self.told(reply["error"]))
        if "deep" in reply or "large" in reply:
            self.fail(
                "reply_too_large", str(reply.get("deep", f"a reply of {reply.get('large')} bytes"))[:200]
            )

    def exchange(self, call: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a call, if any, and wait for a reply."""
        try:
            if call is not None:
                self.candidate.send(call)
            return self.candidate.receive()
        except EOFError:
            self.fail("", "")  # how it ended is known when the supervisor reports
        except OverflowError as error:
            self.fail("reply_too_large", str(error))
        except values.Malformed as error:
            self.fail("exception", str(error))

    def value(self, reply: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
        try:
            for index, form in dict(reply.get("changed") or {}).items():
                change_in_place(arguments[int(index)], values.decode(form))
            value = values.decode(reply["value"])
        except values.TooDeep as error:
            self.fail("reply_too_large", str(error))
        except (values.Malformed, RecursionError, KeyError, IndexError, TypeError, ValueError) as error:
            self.fail("exception", f"a reply that no encoder writes ({type(error).__name__})")
        self.opaque = self.opaque or opaque_in(value)
        return value

    def fail(self, verdict: str, reason: str) -> NoReturn:
        self.failure = (verdict, reason)
        raise CandidateEnded

    def told(self, form: Any) -> tuple[str, str, str]:
        try:
            return error_words(form)
        except values.Malformed as error:
            self.fail("exception", str(error))

    def exception(self, name: str, builtin: str, words: str) -> BaseException:
        """The candidate's exception as the nearest built-in one, so that a test can expect it.

        StopIteration would end the loops of a test instead of failing it (`all(map(candidate, inputs))`); it comes
        as the RuntimeError that a generator makes of it.
        """
        kind = getattr(builtins, builtin, Exception)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = Exception
        if issubclass(kind, StopIteration | StopAsyncIteration):
            kind = RuntimeError
        try:
            error = kind(words)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            error = Exception(words)
        error.candidate = f"{name}: {words}" if words else name  # type: ignore[attr-defined]
        self.raised.append(error)
        return error


def error_words(form: Any) -> tuple[str, str, str]:
    """Type, nearest built-in type and text of a candidate's exception.

    Raises:
        values.Malformed: a form that the supervisor's code does not write.
    """
    if type(form) is not list or [type(part) for part in form] != [str, str, str]:
        raise values.Malformed(FORGED)
    name, builtin, words = (part[:500] for part in form)
    return name, builtin, words


def change_in_place(target: Any, changed: Any) -> None:
    """Carry a call's change of a list, dict or set argument back to the caller's object."""
    if type(target) is not type(changed):
        raise TypeError("an argument changed its type")
    if isinstance(target, list):
        target[:] = changed
    elif isinstance(target, dict | set):
        target.clear()
        target.update(changed)


def opaque_in(value: Any) -> str:
    """The type of a value that stands for something without a form, "" where all has come over."""
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, values.Opaque) and here.items is None:
            return here.name
        if isinstance(here, list | tuple | set | frozenset):
            stack.extend(here)
        elif isinstance(here, dict):
            stack.extend(here.values())
    return ""


@lru_cache(maxsize=4096)
def compiled(source: str, name: str) -> Any:
    return compile(source, name, "exec", dont_inherit=True)


def run_test(problem: Problem, stub: Callable[..., Any], seed: int, cpu_seconds: float) -> None:
    """Run a problem's test program against a stub; what it raises comes out.

    The names of the prompt's helpers are there, and the entry point's own name is the stub too (HumanEval/33).
    """
    random.seed(seed)
    namespace: dict[str, Any] = {"__name__": "test"}
    with time_limit(cpu_seconds):
        exec(compiled(preamble(problem.prompt, problem.entry_point), "<prompt>"), namespace)
        namespace[problem.entry_point] = namespace["candidate"] = stub
        exec(compiled(problem.test, "<test>"), namespace)
        check = namespace["check"]
        namespace[problem.entry_point] = stub  # MBPP/56 and MBPP/349 ask for a function that is named check
        check(stub)


def run_inputs(problem: Problem, stub: Stub, expected: list[Any], cpu_seconds: float) -> None:
    """Send a problem's inputs in one batch and compare the answers as they come.

    Raises:
        AssertionError: at the first that is not as expected.
    """
    with time_limit(cpu_seconds):
        given = stub.batch(oracles.calls(problem.inputs))
        oracles.check(given, problem.inputs, expected, problem.oracle, problem.atol)


@contextmanager
def time_limit(cpu_seconds: float) -> Iterator[None]:
    """Raise TestTooLong when the block has used that much CPU time of its own.

    C code (a set of answers that all hash alike) does not look at handlers: after twice that time the process is
    killed, and the pool knows in which phase.
    """

    def expire(*_: object) -> None:
        raise TestTooLong

    before = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_PROF, 2 * cpu_seconds + 1)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds, 0.1)  # again and again: a test may catch everything
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        finally:  # the handler may be due just here
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGVTALRM, before)


def needs_candidate_names(problem: Problem) -> list[str]:
    """Names that a test takes from the candidate besides the entry point (MBPP/367 builds the candidate's class).

    Such a test cannot run apart from the candidate; it is judged in the sandbox, as `weak`.
    """
    if problem.inputs:
        return []
    known = set(dir(builtins)) | {problem.entry_point, "candidate", "__name__"}
    trees = [ast.parse(preamble(problem.prompt, problem.entry_point)), ast.parse(problem.test)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return []
    loads = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return sorted(loads - known)
