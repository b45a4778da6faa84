"""Judge samples, one at a time: extract the program, run the test here and the candidate in its sandbox.

    python -m stages.judge.worker FD      # started by stages/judge/pool.py; JSON messages in and out

It is a process of its own, so that hostile text or answers that crash it cost one sample and no more. It
announces each phase before it begins: the pool blames the candidate for a crash while its text was parsed or
its answers were compared, and for no other.
"""

import gc
import json
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from typing import Any

from stages.common.rows.schema import Problem
from stages.judge import oracles
from stages.judge.extract.answers import extract_answer, read_literal
from stages.judge.extract.program import extract_program
from stages.judge.sandbox import kernel, values
from stages.judge.sandbox.host import Candidate, Isolation, LevelUnavailable, Limits, Sandbox, SandboxFailed
from stages.judge.stub import CandidateEnded, CandidateProxy, TestTooLong, parse_error, run_inputs, run_test
from stages.judge.verdict import WEAK_PREFIX, Submission, Verdict

WORKER_MEMORY_BYTES = 4 << 30
# What a program speaks of that may start threads
THREADS = re.compile("thread|concurrent|asyncio|executor|multiprocessing", re.IGNORECASE)
# What a sandbox may lack, which is no fault of a program
LACKS = re.compile(r"ZoneInfoNotFoundError|No usable temporary directory found|PermissionError: \[Errno 1\]")
NO_THREAD = "can't start new thread"
SLEEPER_SHARE = 0.1  # of the wall limit: a program that used less CPU time slept
ENDS_LOADING = ("cpu_timeout", "wall_timeout", "signal", "exception")
CandidateCheck = Callable[[CandidateProxy], object]


class SampleJudge:
    """Judge one sample after another in one sandbox, replaced when a candidate left something in it."""

    def __init__(
        self, isolation: Isolation, limits: Limits, announce: Callable[[str], object] = lambda phase: None
    ) -> None:
        self.isolation = isolation
        self.limits = limits
        self.announce = announce  # called with each phase before it begins
        self.sandbox: Sandbox | None = None
        self.loaded = self.patient = False  # whether the last program ended its loading; see judge
        self.canonical: dict[str, list[Any]] = {}  # task_id: answers of its canonical solution

    def judge(self, sample: Submission, seed: int = 0, patient: bool = False) -> Verdict:
        """Return the verdict on a sample; `seed` is that of `random`, on both sides.

        A `patient` judge takes no program for asleep that may wait for a core: only the limits end it.

        A program that does not load because it hangs or dies is run again without the statements of its top
        level that define nothing.
        """
        problem, self.patient = sample.problem, patient
        self.announce("extract")
        if problem.kind == "literal":
            return literal_verdict(problem, sample.completion)
        extraction = extract_answer(problem, sample.completion, sample.fence)
        if extraction.verdict:
            return Verdict(extraction.verdict, extraction.reason)
        job = {"program": values.encode_value(extraction.program), "seed": seed}
        job |= {"script": problem.kind == "script", "prelude": problem.oracle in ("returned", "output")}
        if sample.test_in_sandbox:
            job["test"] = problem.test
        self.announce("sandbox")
        try:
            check = self.check_for(problem, seed)
            verdict = self.run_program(problem, job, check)
            if not self.loaded and not sample.test_in_sandbox and verdict.verdict in ENDS_LOADING:
                self.announce("sandbox")
                again = self.run_program(problem, {**job, "definitions": True}, check)
                if again.verdict == "passed":
                    return replace(again, reason=f"run without its top level: {verdict.reason}")
            return verdict
        except (SandboxFailed, LevelUnavailable) as error:
            self.close()
            return Verdict("harness_error", str(error))

    def check_for(self, problem: Problem, seed: int) -> CandidateCheck:
        """Return the check of a problem: its test program, or its inputs with the expected answers."""
        limit = self.limits.cpu_seconds
        if not problem.inputs:
            return lambda proxy: run_test(problem, proxy, seed, limit)
        if problem.expected:
            expected = oracles.evaluate_literal(problem.expected)
        else:
            expected = self.canonical_answers(problem, seed)
        return lambda proxy: run_inputs(problem, proxy, expected, limit)

    def canonical_answers(self, problem: Problem, seed: int) -> list[Any]:
        """Return the answers of the canonical solution to the inputs, computed in the same sandbox.

        Raises:
            SandboxFailed: it gives none.
        """
        if problem.task_id not in self.canonical:
            answers: list[Any] = []
            program = extract_program(problem.prompt, problem.entry_point, problem.canonical_solution).program
            job = {"program": values.encode_value(program), "seed": seed}
            calls = oracles.encode_calls(problem.inputs)
            verdict = self.run_program(problem, job, lambda proxy: answers.extend(proxy.batch(calls)))
            if verdict.verdict != "passed":
                raise SandboxFailed(
                    f"its canonical solution does not answer the inputs: {verdict.verdict}, {verdict.reason}"
                )
            self.canonical[problem.task_id] = oracles.expected_answers(answers, problem.oracle)
            self.announce("sandbox")
        return self.canonical[problem.task_id]

    def run_program(self, problem: Problem, job: dict[str, Any], check: CandidateCheck) -> Verdict:
        self.sandbox = self.sandbox or Sandbox(self.isolation)
        self.loaded = False
        started = time.perf_counter()
        threads = THREADS.search(str(job["program"])) is not None
        with self.sandbox.run(self.limits, threads, self.patient) as candidate:
            word, reason = self.examine(candidate, {**job, "entry_point": problem.entry_point}, check)
        wall = time.perf_counter() - started
        end = candidate.end
        if end["trouble"]:
            raise SandboxFailed(end["trouble"])
        if end["dirty"]:
            self.close()
        word, reason = final_verdict(word, reason, end, self.limits)
        reason = reason.encode("utf-8", "replace").decode()
        return Verdict(word, reason, round(end["cpu"], 3), round(wall, 3))

    def examine(self, candidate: Candidate, job: dict[str, Any], check: CandidateCheck) -> tuple[str, str]:
        """Return verdict and reason while the candidate lives; an empty verdict where its end decides."""
        try:
            candidate.send(job)
            loaded = candidate.receive()
        except EOFError:
            return "", ""
        except (OverflowError, values.Malformed) as error:
            return "exception", str(error)
        self.loaded = True
        dropped = str(loaded.get("dropped", ""))[:500]
        if loaded.get("stage") != "ready":
            return load_failure(loaded, job["entry_point"], dropped)
        if "test" in job:
            word, reason = "passed", f"{WEAK_PREFIX}the test ran with the candidate"
        else:
            self.announce("test")
            word, reason = run_check(CandidateProxy(candidate), check)
        return word, "; ".join(filter(None, (reason, f"{dropped} (while loading)" if dropped else "")))

    def close(self) -> None:
        if self.sandbox:
            self.sandbox.close()
        self.sandbox = None


def literal_verdict(problem: Problem, completion: str) -> Verdict:
    """Return the verdict on a value that the completion writes; nothing of it runs."""
    try:
        answer = read_literal(completion)
    except ValueError as error:
        return Verdict("syntax_error", str(error))
    right = bool(answer == oracles.evaluate_literal(problem.expected))
    return Verdict("passed") if right else Verdict("wrong_answer", f"the answer is {answer!r}"[:200])


def load_failure(loaded: dict[str, Any], entry_point: str, dropped: str) -> tuple[str, str]:
    """Return the verdict on a program that failed while loading, or in a test in the sandbox."""
    stage = loaded.get("stage")
    if stage == "entry" and dropped:
        return "exception", f"{dropped} (while loading)"
    if stage == "entry":
        return "no_entry_point", f"the program leaves no function {entry_point}"
    try:
        name, _, message = parse_error(loaded.get("error"))
    except values.Malformed as error:
        return "exception", str(error)
    reason = f"{name}: {message}" if message else name
    if stage == "syntax":
        return "syntax_error", reason
    if stage == "test" and name == "AssertionError":
        return "wrong_answer", f"{WEAK_PREFIX}{reason}"
    return "out_of_memory" if name == "MemoryError" else "exception", f"{reason} (while loading)"


def run_check(proxy: CandidateProxy, check: CandidateCheck) -> tuple[str, str]:
    """Run a check against the proxy and return whose fault its end is, as verdict and reason."""
    raised: BaseException | None = None
    try:
        check(proxy)
    except CandidateEnded:
        pass
    except TestTooLong:
        return "cpu_timeout", "the test did not end on the answers that came"
    except BaseException as error:
        raised = error
    if proxy.failure:
        return proxy.failure
    if raised is None:
        return ("passed", "") if proxy.calls else ("harness_error", "the test never called the candidate")
    if any(raised is error for error in proxy.raised):
        message = str(raised.candidate)[:500]  # type: ignore[attr-defined]
        return "out_of_memory" if isinstance(raised, MemoryError) else "exception", message
    if proxy.opaque:
        return "unsupported_value", f"an answer of type {proxy.opaque}"
    if isinstance(raised, NameError):  # of the candidate's, as the class whose object it builds
        return "unsupported_value", f"the test needs more than the entry point: {raised}"
    return "wrong_answer", failure_reason(raised, proxy.calls)


def failure_reason(error: BaseException, calls: int) -> str:
    name = type(error).__name__
    if isinstance(error, AssertionError):
        message = str(error.args[0])[:200] if error.args and isinstance(error.args[0], str) else ""
        return f"an assertion after call {calls}" + (f": {message}" if message else "")
    return f"the test raised {name} on the answer to call {calls}"


def final_verdict(word: str, reason: str, end: dict[str, Any], limits: Limits) -> tuple[str, str]:
    """Return the final verdict. Limits come first: a signal handler may still answer after exceeding one."""
    if end["killed"] == "cpu" or end["cpu"] > limits.cpu_seconds:
        return "cpu_timeout", f"more than {limits.cpu_seconds:g} s of CPU time"
    if end["killed"] == "asleep" or (
        end["killed"] == "wall" and end["cpu"] < SLEEPER_SHARE * limits.wall_seconds
    ):
        return "wall_timeout", f"more than {limits.cpu_seconds:g} s, most of them asleep"
    if end["killed"] == "wall":
        return "wall_timeout", f"more than {limits.wall_seconds:g} s"
    if word == "exception" and (LACKS.search(reason) or (NO_THREAD in reason and not end["threads"])):
        return "unsupported", f"the sandbox has no such thing: {reason}"
    if word:
        return word, reason
    number = end["status"] & 0x7F
    if number and not (end["killed"] == "end" and number == signal.SIGKILL):
        has_name = number in signal.Signals.__members__.values()
        return "signal", f"killed by {signal.Signals(number).name if has_name else number}"
    return "exception", "the process ended, or closed its stream, before it answered"


def main() -> None:
    kernel.kill_with_parent()
    warnings.simplefilter("ignore")  # about generated code
    pool = Connection(int(sys.argv[1]))

    def send(message: dict[str, Any]) -> None:
        pool.send_bytes(json.dumps(message).encode())

    resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    gc.freeze()
    judge = None
    try:
        setup = json.loads(pool.recv_bytes())
        if setup["core"] is not None:
            os.sched_setaffinity(0, {setup["core"]})
        isolation, limits = Isolation(**setup["isolation"]), Limits(**setup["limits"])
        judge = SampleJudge(isolation, limits, lambda phase: send({"phase": phase}))
        while True:
            job = json.loads(pool.recv_bytes())
            seed, patient, problem = job.pop("seed"), job.pop("patient"), Problem(**job.pop("problem"))
            send({"verdict": asdict(judge.judge(Submission(problem, **job), seed, patient))})
    except (EOFError, OSError):  # the pool needs no more
        if judge:
            judge.close()
    os._exit(0)  # skip the interpreter's shutdown: the pool is waiting


if __name__ == "__main__":
    main()
