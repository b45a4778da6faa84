"""Run a benchmark's test program in the judge, with a proxy in place of the candidate."""

import ast
import builtins
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

from stages.common.rows.schema import Problem
from stages.judge import oracles
from stages.judge.extract.program import preamble
from stages.judge.sandbox import values
from stages.judge.sandbox.host import Candidate


class CandidateEnded(BaseException):
    """The candidate can no longer answer. A BaseException, so that no `except Exception` swallows it."""


class TestTooLong(BaseException):
    """The test program exceeded its CPU time on the candidate's answers."""


FORGED_REPLY = "the candidate's process wrote a reply of its own"


class CandidateProxy:
    """Stands in for the entry point: sends each call on, and returns its value or raises its exception."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.calls = 0
        self.failure: tuple[str, str] | None = None  # verdict and reason that no later answer can change
        self.raised: list[BaseException] = []  # exceptions of the candidate, as the test saw them
        self.opaque = ""  # type of an answer that could not be sent as a value

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.failure:
            raise CandidateEnded
        self.calls += 1
        if any(isinstance(a, values.Opaque) for a in (*arguments, *keywords.values())):
            self.fail("unsupported_value", f"an answer of type {self.opaque} was given back as an argument")
        form = values.encode_value(arguments, strict=True)
        call = {"id": self.calls, "arguments": form, "keywords": values.encode_value(keywords, strict=True)}
        reply = self.exchange(call)
        if reply.get("id") != self.calls:
            self.fail("exception", FORGED_REPLY)
        self.raise_error_in(reply)
        return self.value(reply, arguments)

    def batch(self, calls: Sequence[Any]) -> Iterator[Any]:
        """Yield answers to many calls, sent in one message; raise the first exception among them.

        Args:
            calls: the arguments of each call, encoded.
        """
        reply = self.exchange({"id": 0, "batch": calls})
        while self.calls < len(calls):
            forms = reply.get("values", [])
            if not isinstance(forms, list) or len(forms) > len(calls) - self.calls:
                self.fail("exception", FORGED_REPLY)
            for form in forms:
                self.calls += 1
                yield self.value({"value": form}, ())
            if self.calls < len(calls):
                self.raise_error_in(reply)
                if not forms or not reply.get("more"):
                    self.fail("exception", FORGED_REPLY)
                reply = self.exchange()

    def raise_error_in(self, reply: dict[str, Any]) -> None:
        """Raise the candidate's exception, or fail, where a reply holds no value."""
        if "error" in reply:
            raise self.exception(*self.error_fields(reply["error"]))
        if "deep" in reply or "large" in reply:
            self.fail(
                "reply_too_large", str(reply.get("deep", f"a reply of {reply.get('large')} bytes"))[:200]
            )

    def exchange(self, call: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a call, if any, and return the next reply."""
        try:
            if call is not None:
                self.candidate.send(call)
            return self.candidate.receive()
        except EOFError:
            self.fail("", "")  # the supervisor's report will say how it ended
        except OverflowError as error:
            self.fail("reply_too_large", str(error))
        except values.Malformed as error:
            self.fail("exception", str(error))

    def value(self, reply: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
        try:
            for index, form in dict(reply.get("changed") or {}).items():
                update_in_place(arguments[int(index)], values.decode_value(form))
            value = values.decode_value(reply["value"])
        except values.TooDeep as error:
            self.fail("reply_too_large", str(error))
        except (values.Malformed, RecursionError, KeyError, IndexError, TypeError, ValueError) as error:
            self.fail("exception", f"a reply that no encoder writes ({type(error).__name__})")
        self.opaque = self.opaque or opaque_type(value)
        return value

    def fail(self, verdict: str, reason: str) -> NoReturn:
        self.failure = (verdict, reason)
        raise CandidateEnded

    def error_fields(self, form: Any) -> tuple[str, str, str]:
        try:
            return parse_error(form)
        except values.Malformed as error:
            self.fail("exception", str(error))

    def exception(self, name: str, builtin: str, message: str) -> BaseException:
        """Return the candidate's exception as the nearest built-in one, so that a test can expect it.

        StopIteration would end the loops of a test instead of failing it (`all(map(candidate, inputs))`). It
        becomes a RuntimeError, as in a generator.
        """
        kind = getattr(builtins, builtin, Exception)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = Exception
        if issubclass(kind, StopIteration | StopAsyncIteration):
            kind = RuntimeError
        try:
            error = kind(message)
        except TypeError:  # UnicodeDecodeError and some others need more than a message
            error = Exception(message)
        error.candidate = f"{name}: {message}" if message else name  # type: ignore[attr-defined]
        self.raised.append(error)
        return error


def parse_error(form: Any) -> tuple[str, str, str]:
    """Return type, nearest built-in type and message of a candidate's exception.

    Raises:
        values.Malformed: a form that candidate.py does not write.
    """
    if type(form) is not list or [type(part) for part in form] != [str, str, str]:
        raise values.Malformed(FORGED_REPLY)
    name, builtin, message = (part[:500] for part in form)
    return name, builtin, message


def update_in_place(target: Any, changed: Any) -> None:
    """Apply a call's change of a list, dict or set argument to the caller's object."""
    if type(target) is not type(changed):
        raise TypeError("an argument changed its type")
    if isinstance(target, list):
        target[:] = changed
    elif isinstance(target, dict | set):
        target.clear()
        target.update(changed)


def opaque_type(value: Any) -> str:
    """Return the type name of the first opaque value without items inside `value`, "" if there is none."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, values.Opaque) and item.items is None:
            return item.name
        if isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    return ""


@lru_cache(maxsize=4096)
def compile_source(source: str, name: str) -> Any:
    return compile(source, name, "exec", dont_inherit=True)


def run_test(problem: Problem, proxy: Callable[..., Any], seed: int, cpu_seconds: float) -> None:
    """Run a problem's test program against a proxy; its exceptions propagate.

    The test sees the helpers of the prompt, and the proxy under the entry point's own name too
    (HumanEval/33).
    """
    random.seed(seed)
    namespace: dict[str, Any] = {"__name__": "test"}
    with time_limit(cpu_seconds):
        exec(compile_source(preamble(problem.prompt, problem.entry_point), "<prompt>"), namespace)
        namespace[problem.entry_point] = namespace["candidate"] = proxy
        exec(compile_source(problem.test, "<test>"), namespace)
        check = namespace["check"]
        namespace[problem.entry_point] = proxy  # in MBPP/56 and MBPP/349 the entry point is named check
        check(proxy)


def run_inputs(problem: Problem, proxy: CandidateProxy, expected: list[Any], cpu_seconds: float) -> None:
    """Send a problem's inputs in one batch and check the answers as they arrive.

    Raises:
        AssertionError: at the first wrong answer.
    """
    with time_limit(cpu_seconds):
        answers = proxy.batch(oracles.encode_calls(problem.inputs))
        oracles.check_answers(answers, problem.inputs, expected, problem.oracle, problem.atol)


@contextmanager
def time_limit(cpu_seconds: float) -> Iterator[None]:
    """Raise TestTooLong when the block has used `cpu_seconds` of user time.

    C code does not run signal handlers (say, a set of answers that all hash alike). After `2 * cpu_seconds +
    1` of CPU time SIGPROF therefore kills the process; the pool knows in which phase. Never enter this in a
    process that must survive.
    """

    def expire(*_: object) -> None:
        raise TestTooLong

    before = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_PROF, 2 * cpu_seconds + 1)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds, 0.1)  # repeats: a test may catch everything
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        finally:  # the handler may fire right here
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGVTALRM, before)


def candidate_names_used(problem: Problem) -> list[str]:
    """Return names that a test takes from the candidate besides the entry point.

    MBPP/367 builds an object of the candidate's class. Such a test cannot run apart from the candidate. It
    runs in the sandbox, and its verdict is marked `weak: `.
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
