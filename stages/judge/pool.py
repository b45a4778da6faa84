"""Judge many samples at once: one worker process per core, replaced when it dies, and no sample lost."""

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.judge.sandbox.host import REPOSITORY_ROOT, START_SECONDS, Isolation, Limits
from stages.judge.verdict import FirstRun, Verdict

JUDGE_ATTEMPTS = 3
EXTRACT_SECONDS = 60.0
SHUTDOWN_SECONDS = 5.0
DEATH_SECONDS = 0.5  # until a process whose streams have ended is gone
UNDISTURBED_SHARE = 0.5  # of a core's time, for a program that only computes
CROWDED = 4  # runnable threads a core
OnVerdict = Callable[[int, Verdict], object]  # index of the sample, and its final verdict


@dataclass(frozen=True)
class Submission:
    """A completion of a problem, to be judged."""

    problem: Problem
    completion: str
    # Run the test in the sandbox, beside the candidate: it needs more of the candidate than the entry point
    test_in_sandbox: bool = False
    # Which of several fences counts, first or last
    fence: str = "last"


class Worker:
    """A judge in a process of its own."""

    def __init__(self, isolation: Isolation, limits: Limits, core: int | None = None) -> None:
        self.seconds = 2 * limits.wall_seconds + START_SECONDS
        self.buffer = b""
        self.busy = False
        path = os.pathsep.join([str(REPOSITORY_ROOT), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "stages.judge.worker"],  # -S: importing site takes 25 ms
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY_ROOT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # the pool handles an interrupt at the terminal
        )
        self.send({"isolation": asdict(isolation), "limits": asdict(limits), "core": core})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, None where the worker died or sent nothing for `seconds`."""
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                return None
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def judge(self, submission: Submission, seed: int) -> tuple[Verdict | None, str]:
        """Return the verdict, or None and the phase in which the worker was lost."""
        phase = "sandbox"
        self.busy = True
        try:
            self.send({**asdict(submission), "seed": seed})
        except OSError:
            return None, phase
        while message := self.receive(EXTRACT_SECONDS if phase == "extract" else self.seconds):
            if "verdict" in message:
                self.busy = False
                return Verdict(**message["verdict"]), phase
            phase = message["phase"]
        return None, phase

    def close(self) -> int:
        """End the worker: an idle one closes its sandbox; a busy one is killed, and its sandbox with it.

        Returns:
            Its exit status, minus the signal that ended it; 0 where it had not ended by itself.
        """
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(OSError):  # a buffered line that the dead worker never read
            self.process.stdin.close()
        status = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(DEATH_SECONDS if self.busy else SHUTDOWN_SECONDS)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        return status


class Pool:
    """Judge samples with `workers` processes (0: one per core that this process may use)."""

    def __init__(
        self, isolation: Isolation, limits: Limits, workers: int = 0, seed: int = 0, fence: str = "last"
    ) -> None:
        self.isolation = isolation
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.seed = seed
        self.fence = fence  # of submissions that judge_benchmark makes

    def judge_all(
        self, submissions: Sequence[Submission], on_verdict: OnVerdict = lambda index, verdict: None
    ) -> list[Verdict]:
        """Return verdicts in the order of the submissions; equal submissions are judged once.

        A timeout on a crowded machine is judged again. `on_verdict` is called with each final verdict, by one
        thread at a time.

        Raises:
            UserError: the judge itself failed on a sample JUDGE_ATTEMPTS times.
        """
        places: dict[Submission, list[int]] = {}
        for index, submission in enumerate(submissions):
            places.setdefault(submission, []).append(index)
        distinct = list(places)
        doubtful: list[int] = []

        def report(index: int, verdict: Verdict) -> None:
            if verdict.verdict != "harness_error":
                for place in places[distinct[index]]:
                    on_verdict(place, verdict)

        def report_unless_doubtful(index: int, verdict: Verdict) -> None:
            if is_doubtful(verdict):
                doubtful.append(index)
            else:
                report(index, verdict)

        judged = self.judge_in_parallel(distinct, report_unless_doubtful)
        reruns = self.judge_in_parallel([distinct[i] for i in doubtful])
        for i, rerun in zip(doubtful, reruns, strict=True):
            judged[i] = replace(
                rerun, first_run=FirstRun(judged[i].verdict, judged[i].cpu_s, judged[i].wall_s)
            )
            report(i, judged[i])
        by_submission = dict(zip(distinct, judged, strict=True))
        verdicts = [by_submission[submission] for submission in submissions]
        broken = [i for i, verdict in enumerate(verdicts) if verdict.verdict == "harness_error"]
        if broken:
            task = submissions[broken[0]].problem.task_id
            raise UserError(
                f"the judge failed on {len(broken)} samples, {JUDGE_ATTEMPTS} times each; {task}: "
                f"{verdicts[broken[0]].reason}. The fault is not the model's, so no result was written."
            )
        return verdicts

    def judge_in_parallel(
        self,
        submissions: Sequence[Submission],
        on_verdict: OnVerdict = lambda index, verdict: None,
    ) -> list[Verdict]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(submissions)):
            waiting.put(index)
        verdicts: list[Verdict] = [Verdict("harness_error", "not judged")] * len(submissions)
        errors: list[BaseException] = []
        lock = threading.Lock()

        def report(index: int) -> None:
            with lock:
                on_verdict(index, verdicts[index])

        cores: Sequence[int | None] = [None] * self.workers
        available = os.sched_getaffinity(0)
        if self.workers == len(available):  # judge and candidate take turns: on one core they wake up faster
            cores = sorted(available)
        threads = [
            threading.Thread(
                target=self.run_worker,
                args=(core, submissions, waiting, verdicts, errors, report),
                daemon=True,
            )
            for core in cores[: len(submissions)]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return verdicts

    def run_worker(
        self,
        core: int | None,
        submissions: Sequence[Submission],
        waiting: "queue.SimpleQueue[int]",
        verdicts: list[Verdict],
        errors: list[BaseException],
        report: Callable[[int], object],
    ) -> None:
        """Start a worker and judge samples until none is waiting; the target of one thread."""
        worker = Worker(self.isolation, self.limits, core)
        try:
            while not errors:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                worker, verdicts[index] = self.judge_with_retries(worker, submissions[index], core)
                report(index)
        except BaseException as error:
            errors.append(error)
        finally:
            worker.close()

    def judge_with_retries(
        self, worker: Worker, submission: Submission, core: int | None
    ) -> tuple[Worker, Verdict]:
        """Judge a sample, with a new worker if the old one is lost; return the worker to continue with."""
        verdict = Verdict("harness_error", "not judged")
        for _ in range(JUDGE_ATTEMPTS):
            found, phase = worker.judge(submission, self.seed)
            if found and found.verdict != "harness_error":
                return worker, found
            status = worker.close()
            worker = Worker(self.isolation, self.limits, core)
            verdict = found or lost_worker_verdict(phase, status)
            if status == -signal.SIGPROF:  # over the time limit in C code: no accident
                break
        return worker, verdict


def lost_worker_verdict(phase: str, status: int) -> Verdict:
    """Return the verdict where every attempt lost its worker in this phase.

    Args:
        phase: the last that it announced.
        status: its exit status, minus the signal that ended it; 0: it hung.
    """
    if status == -signal.SIGKILL:  # the kernel ran out of memory, or somebody ended it
        return Verdict("harness_error", f"the worker was killed in phase {phase}")
    if phase == "extract":
        return Verdict("syntax_error", "the parser does not survive this text")
    if phase == "test" and status in (0, -signal.SIGPROF):
        return Verdict("cpu_timeout", "the test program does not end on the answers that came")
    if phase == "test" and status < 0:
        name = signal.Signals(-status).name
        return Verdict("signal", f"the test program dies by {name} on the answers that came")
    return Verdict("harness_error", "the worker died")


def is_doubtful(verdict: Verdict) -> bool:
    """Return whether other processes may have caused a timeout: they took the core, or crowd the machine."""
    if verdict.verdict == "cpu_timeout":
        return 0 < verdict.cpu_s < UNDISTURBED_SHARE * verdict.wall_s
    return verdict.verdict == "wall_timeout" and runnable() > CROWDED * (os.cpu_count() or 1)


def runnable() -> int:
    """Return the threads of this machine that run or wait for a core."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
