"""One judge: extracts, runs the test program here and the candidate in its sandbox, and gives a verdict.

    python -m stages.judge.worker      # started by stages/judge/pool.py; JSON lines in and out

A process of its own, so that hostile text or answers which bring it down cost one sample and no more. Before each
phase it says which one begins: the pool blames the candidate for a death while its text was parsed or its answers
were compared, and nobody else.
"""

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from stages.common.schema import Problem
from stages.judge import oracles
from stages.judge.extract.program import extract
from stages.judge.sandbox import kernel, values
from stages.judge.sandbox.host import Candidate, Isolation, Limits, NoIsolation, Sandbox, SandboxFailed
from stages.judge.stub import (
    CandidateEnded,
    Stub,
    TestTooLong,
    error_words,
    needs_candidate_names,
    run_inputs,
    run_test,
)
from stages.judge.verdict import WEAK, Verdict

MEMORY_BYTES = 4 << 30


Check = Callable[[Stub], object]


class Judge:
    """Judges one sample after another with one sandbox, which is replaced when a candidate left something in it."""

    def __init__(
        self, isolation: Isolation, limits: Limits, announce: Callable[[str], object] = lambda phase: None
    ) -> None:
        self.isolation = isolation
        self.limits = limits
        self.announce = announce  # told the phase that begins
        self.sandbox: Sandbox | None = None
        self.known: dict[str, list[Any]] = {}  # task_id: answers of canonical solutions

    def judge(self, problem: Problem, completion: str, seed: int = 0, weak: bool = False) -> Verdict:
        """The verdict on a completion.

        Args:
            problem: the problem.
            completion: what the model wrote, as it came.
            seed: of `random`, on both sides.
            weak: the test needs the candidate's own names and runs with it in the sandbox.
        """
        self.announce("extract")
        also = needs_candidate_names(problem) if weak else []
        found = extract(problem.prompt, problem.entry_point, completion, also)
        if found.verdict:
            return Verdict(found.verdict, found.reason)
        self.announce("sandbox")
        try:
            check = self.check_of(problem, seed)
            self.announce("sandbox")
            return self.run(problem, found.program, seed, check, weak)
        except (SandboxFailed, NoIsolation) as error:
            self.close()
            return Verdict("harness_error", str(error))

    def check_of(self, problem: Problem, seed: int) -> Check:
        """What is asked of a candidate."""
        limit = self.limits.cpu_seconds
        if not problem.inputs:
            return lambda stub: run_test(problem, stub, seed, limit)
        expected = oracles.literal(problem.expected) if problem.expected else self.canonical(problem, seed)
        return lambda stub: run_inputs(problem, stub, expected, limit)

    def canonical(self, problem: Problem, seed: int) -> list[Any]:
        """Answers of the canonical solution to the inputs, found in the same sandbox.

        Raises:
            SandboxFailed: it gives none.
        """
        if problem.task_id not in self.known:
            found: list[Any] = []

            def collect(stub: Stub) -> None:
                found.extend(stub.batch(oracles.calls(problem.inputs)))

            program = extract(problem.prompt, problem.entry_point, problem.canonical_solution).program
            verdict = self.run(problem, program, seed, collect)
            if verdict.verdict != "passed":
                raise SandboxFailed(
                    f"its canonical solution does not answer the inputs: {verdict.verdict}, {verdict.reason}"
                )
            self.known[problem.task_id] = oracles.noted(found, problem.oracle)
        return self.known[problem.task_id]

    def run(self, problem: Problem, program: str, seed: int, check: Check, weak: bool = False) -> Verdict:
        self.sandbox = self.sandbox or Sandbox(self.isolation)
        started = time.perf_counter()
        with self.sandbox.run(self.limits) as candidate:
            word, reason = self.examine(candidate, problem, program, seed, check, weak)
        wall = time.perf_counter() - started
        end = candidate.end
        if end["trouble"]:
            raise SandboxFailed(end["trouble"])
        if end["dirty"]:
            self.close()
        word, reason = ended(word, reason, end, self.limits)
        reason = reason.encode("utf-8", "replace").decode()
        return Verdict(word, reason, round(end["cpu"], 3), round(wall, 3))

    def examine(
        self, candidate: Candidate, problem: Problem, program: str, seed: int, check: Check, weak: bool
    ) -> tuple[str, str]:
        """Verdict and reason while the candidate lives; an empty word where its end has to tell."""
        job: dict[str, Any] = {
            "program": values.encode(program),
            "entry_point": problem.entry_point,
            "seed": seed,
        }
        if weak:
            job["test"] = problem.test
        try:
            candidate.send(job)
            loaded = candidate.receive()
        except EOFError:
            return "", ""
        except (OverflowError, values.Malformed) as error:
            return "exception", str(error)
        if loaded.get("stage") != "ready":
            return not_loaded(loaded, problem.entry_point)
        if weak:
            return "passed", f"{WEAK}the test ran with the candidate"
        self.announce("test")
        return tested(Stub(candidate), check)

    def close(self) -> None:
        if self.sandbox:
            self.sandbox.close()
        self.sandbox = None


def not_loaded(loaded: dict[str, Any], entry_point: str) -> tuple[str, str]:
    """Verdict on a program that did not come to its entry point (or, weak, through its test)."""
    stage = loaded.get("stage")
    if stage == "entry":
        return "no_entry_point", f"the program leaves no function {entry_point}"
    try:
        name, _, words = error_words(loaded.get("error"))
    except values.Malformed as error:
        return "exception", str(error)
    reason = f"{name}: {words}" if words else name
    if stage == "syntax":
        return "syntax_error", reason
    if stage == "test" and name == "AssertionError":
        return "wrong_answer", f"{WEAK}{reason}"
    return "out_of_memory" if name == "MemoryError" else "exception", f"{reason} (while loading)"


def tested(stub: Stub, check: Check) -> tuple[str, str]:
    """Run what is asked against the stub and tell whose fault its end is."""
    raised: BaseException | None = None
    try:
        check(stub)
    except CandidateEnded:
        pass
    except TestTooLong:
        return "cpu_timeout", "the test did not end on the answers that came"
    except values.Unsupported as error:
        return "unsupported_value", str(error)
    except BaseException as error:
        raised = error
    if stub.failure:
        return stub.failure
    if raised is None:
        return ("passed", "") if stub.calls else ("harness_error", "the test never called the candidate")
    if any(raised is error for error in stub.raised):
        words = str(raised.candidate)[:500]  # type: ignore[attr-defined]
        return "out_of_memory" if isinstance(raised, MemoryError) else "exception", words
    if stub.opaque:
        return "unsupported_value", f"an answer of type {stub.opaque}"
    return "wrong_answer", what_failed(raised, stub.calls)


def what_failed(error: BaseException, calls: int) -> str:
    name = type(error).__name__
    if isinstance(error, AssertionError):
        words = str(error.args[0])[:200] if error.args and isinstance(error.args[0], str) else ""
        return f"an assertion after call {calls}" + (f": {words}" if words else "")
    return f"the test raised {name} on the answer to call {calls}"


def ended(word: str, reason: str, end: dict[str, Any], limits: Limits) -> tuple[str, str]:
    """The final verdict: limits are looked at first, since a candidate may answer from a handler past them."""
    if end["killed"] == "cpu" or end["cpu"] > limits.cpu_seconds:
        return "cpu_timeout", f"more than {limits.cpu_seconds:g} s of CPU time"
    if end["killed"] == "wall":
        return "wall_timeout", f"more than {limits.wall_seconds:g} s"
    if word:
        return word, reason
    number = end["status"] & 0x7F
    if number and not (end["killed"] == "end" and number == signal.SIGKILL):
        known = number in signal.Signals.__members__.values()
        return "signal", f"killed by {signal.Signals(number).name if known else number}"
    return "exception", "the process ended, or closed its stream, before it answered"


def main() -> None:
    kernel.die_with_parent()
    channel = os.fdopen(os.dup(1), "w")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 a test that prints must not speak on the channel

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    first = json.loads(sys.stdin.readline())
    if first["core"] is not None:
        os.sched_setaffinity(0, {first["core"]})
    judge = Judge(
        Isolation(**first["isolation"]), Limits(**first["limits"]), lambda phase: say({"phase": phase})
    )
    gc.freeze()
    try:
        for line in sys.stdin:
            job = json.loads(line)
            verdict = judge.judge(Problem(**job["problem"]), job["completion"], job["seed"], job["weak"])
            say({"verdict": asdict(verdict)})
    finally:
        judge.close()
    os._exit(0)  # nothing is left to do, and the pool waits


if __name__ == "__main__":
    main()
