"""Judge many samples at once: one worker process per core, replaced when it dies, and no sample lost."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from stages.common.core.errors import UserError
from stages.judge.sandbox.host import REPOSITORY_ROOT, START_SECONDS, Isolation, Limits
from stages.judge.verdict import Submission, Verdict

JUDGE_ATTEMPTS = 3
EXTRACT_SECONDS = 60.0
SHUTDOWN_SECONDS = 5.0
DEATH_SECONDS = 0.5  # until a process whose streams have ended is gone
UNDISTURBED_SHARE = 0.5  # of a core's time, for a program that only computes
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # where numpy comes into an answer
CROWDED = 2  # runnable threads a core, now or in the mean of the last minute
OnVerdict = Callable[[int, Verdict], object]  # index of the sample, and its final verdict


Process = tuple[subprocess.Popen[bytes], Connection]
AHEAD: list[Process] = []


def spawn() -> Process:
    """Return a new judge's process, which waits for its setup, and the connection to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "stages.judge.worker", str(theirs.fileno())],  # site takes 25 ms
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a test may print
            cwd=REPOSITORY_ROOT,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY_ROOT), *sys.path]),
            },
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # the pool handles an interrupt at the terminal
        )
    return process, Connection(ours.detach())


def spawn_ahead(workers: int) -> None:
    """Start processes of workers, 0: one per core, that import what they need while the caller prepares."""
    AHEAD.extend(spawn() for _ in range(workers or len(os.sched_getaffinity(0))))


class Worker:
    """A judge in a process of its own."""

    def __init__(self, isolation: Isolation, limits: Limits, core: int | None = None) -> None:
        self.setup = {"isolation": asdict(isolation), "limits": asdict(limits), "core": core}
        self.seconds = 2 * limits.wall_seconds + START_SECONDS
        self.start()

    def start(self) -> None:
        self.process, self.connection = AHEAD.pop() if AHEAD else spawn()
        self.busy = False
        with contextlib.suppress(OSError):  # it died; the first attempt will say so
            self.connection.send_bytes(json.dumps(self.setup).encode())

    def judge(self, submission: Submission, seed: int, patient: bool = False) -> Verdict:
        """Return the verdict on a sample, with a new process for each attempt after the first."""
        verdict = Verdict("harness_error", "not judged")
        for _ in range(JUDGE_ATTEMPTS):
            found, phase = self.attempt(submission, seed, patient)
            if found and found.verdict != "harness_error":
                return found
            status = self.close()
            self.start()
            verdict = found or lost_worker_verdict(phase, status)
            if status == -signal.SIGPROF:  # over the time limit in C code: no accident
                break
        return verdict

    def attempt(self, submission: Submission, seed: int, patient: bool = False) -> tuple[Verdict | None, str]:
        """Return the verdict, or None and the phase in which the process was lost."""
        phase = "sandbox"
        self.busy = True
        with contextlib.suppress(OSError, EOFError):
            self.connection.send_bytes(
                json.dumps({**asdict(submission), "seed": seed, "patient": patient}).encode()
            )
            while self.connection.poll(EXTRACT_SECONDS if phase == "extract" else self.seconds):
                message = json.loads(self.connection.recv_bytes())
                if "verdict" in message:
                    self.busy = False
                    return Verdict(**message["verdict"]), phase
                phase = message["phase"]
        return None, phase

    def close(self) -> int:
        """End the process: an idle one closes its sandbox; a busy one is killed, and its sandbox with it.

        Returns:
            Its exit status, minus the signal that ended it; 0 where it had not ended by itself.
        """
        self.connection.close()
        status = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(DEATH_SECONDS if self.busy else SHUTDOWN_SECONDS)
        self.process.kill()
        self.process.wait()
        return status


class Pool:
    """Judge samples with `workers` processes (0: one per core that this process may use)."""

    def __init__(self, isolation: Isolation, limits: Limits, workers: int = 0, seed: int = 0) -> None:
        self.isolation = isolation
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.seed = seed

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
        final: dict[Submission, Verdict] = {}
        doubtful: list[Submission] = []

        def report(submission: Submission, verdict: Verdict) -> None:
            final[submission] = verdict
            if verdict.verdict != "harness_error":
                for place in places[submission]:
                    on_verdict(place, verdict)

        def report_unless_doubtful(submission: Submission, verdict: Verdict) -> None:
            if is_doubtful(verdict):
                doubtful.append(submission)
            else:
                report(submission, verdict)

        self.judge_in_parallel(list(places), report_unless_doubtful)
        self.judge_in_parallel(doubtful, report, patient=True)
        verdicts = [final[submission] for submission in submissions]
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
        report: Callable[[Submission, Verdict], object],
        patient: bool = False,
    ) -> None:
        """Judge submissions, and report each verdict as it comes."""
        waiting, lock, errors = iter(submissions), threading.Lock(), list[BaseException]()

        def work(core: int | None) -> None:
            worker = Worker(self.isolation, self.limits, core)
            try:
                while not errors:
                    with lock:
                        submission = next(waiting, None)
                    if submission is None:
                        return
                    verdict = worker.judge(submission, self.seed, patient)
                    with lock:
                        report(submission, verdict)
            except BaseException as error:
                errors.append(error)
            finally:
                worker.close()

        cores: Sequence[int | None] = [None] * self.workers
        available = os.sched_getaffinity(0)
        if self.workers == len(available):  # judge and candidate take turns: on one core they wake up faster
            cores = sorted(available)
        cores = cores[: len(submissions)]
        threads = [threading.Thread(target=work, args=(core,), daemon=True) for core in cores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def lost_worker_verdict(phase: str, status: int) -> Verdict:
    """Return the verdict where every attempt lost its worker in this phase, with this status (0: it hung)."""
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


def runnable() -> float:
    """Return the threads of this machine that run or wait for a core: now, or in the last minute if they were more."""
    minute, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    return max(float(minute), int(now.partition("/")[0]))
