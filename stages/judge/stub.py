"""Run a benchmark's test program in the judge, with a proxy in place of the candidate."""

import builtins
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

from stages.common.rows.schema import Problem
from stages.judge import oracles
from stages.judge.extract.program import split_prompt
from stages.judge.sandbox import values
from stages.judge.sandbox.host import Candidate, SandboxFailed


class CandidateEnded(BaseException):
    """The candidate can no longer answer. A BaseException, so that no `except Exception` swallows it."""


class TestTooLong(BaseException):
    """The test program exceeded its CPU time on the candidate's answers."""


FORGED_REPLY = "the candidate's process wrote a reply of its own"


class CandidateProxy:
    """Stands in for the entry point: sends each call on, and returns its value or raises its exception."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.calls = 0  # answered
        self.failure: tuple[str, str] | None = None  # verdict and reason that no later answer can change
        self.raised: list[BaseException] = []  # exceptions of the candidate, as the test saw them
        self.opaque = ""  # type of an answer that could not be sent as a value

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.failure:
            raise CandidateEnded
        try:
            call = [values.encode_value(given, strict=True) for given in (arguments, keywords)]
        except values.Unsupported as error:
            self.fail("unsupported_value", str(error))
        self.ask([call], watched=True)
        return self.next_answer(arguments)

    def batch(self, calls: Sequence[Any]) -> Iterator[Any]:
        """Yield answers to calls, encoded arguments sent in one message; raise the first exception among them."""
        no_keywords = values.encode_value({})
        self.ask([[arguments, no_keywords] for arguments in calls], watched=False)
        for _ in calls:
            yield self.next_answer(())

    def ask(self, calls: list[Any], watched: bool) -> None:
        try:
            self.candidate.send({"id": self.calls + 1, "calls": calls, "watched": watched})
        except EOFError:
            self.fail("", "")  # the supervisor's report will say how it ended

    def next_answer(self, arguments: tuple[Any, ...]) -> Any:
        """Return the next value, after its changes of `arguments`, or raise the candidate's exception."""
        self.calls += 1
        value, error = None, None
        try:
            reply = self.candidate.receive()
            if reply.get("id") != self.calls:
                raise values.Malformed(FORGED_REPLY)
            if "deep" in reply or "large" in reply:
                raise OverflowError(str(reply.get("deep", f"a reply of {reply.get('large')} bytes"))[:200])
            if "error" in reply:
                error = self.exception(*parse_error(reply["error"]))
            else:
                for index, form in dict(reply.get("changed") or {}).items():
                    update_in_place(arguments[int(index)], values.decode_value(form))
                value = values.decode_value(reply["value"])
                self.opaque = self.opaque or opaque_type(reply["value"])
        except EOFError:
            self.fail("", "")  # the supervisor's report will say how it ended
        except SandboxFailed as failure:
            self.fail("harness_error", str(failure))
        except (OverflowError, values.TooDeep) as failure:
            self.fail("reply_too_large", str(failure))
        except values.Malformed as failure:
            self.fail("exception", str(failure))
        except (RecursionError, KeyError, IndexError, TypeError, ValueError) as failure:
            self.fail("exception", f"a reply that no encoder writes ({type(failure).__name__})")
        if error:
            raise error
        return value

    def fail(self, verdict: str, reason: str) -> NoReturn:
        self.failure = (verdict, reason)
        raise CandidateEnded

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


def opaque_type(form: Any) -> str:
    """Return the type's name of the first opaque value without items in a form, "" if there is none."""
    stack = [form]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            if item[0] == "o" and len(item) == 2:
                return str(item[1])[:100]
            stack.extend(item[1:])
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
        prompt = problem.solved if problem.kind == "infill" else problem.prompt
        exec(compile_source(split_prompt(prompt, problem.entry_point)[0], "<prompt>"), namespace)
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
