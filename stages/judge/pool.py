"""Judges many samples at once: one worker process per core, replaced when it dies, and no sample lost."""

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
from typing import Any

from stages.common.errors import UserError
from stages.common.schema import Problem
from stages.judge.sandbox.host import ROOT, START_SECONDS, Isolation, Limits
from stages.judge.verdict import FirstRun, Verdict

ATTEMPTS = 3
EXTRACT_SECONDS = 60.0
END_SECONDS = 5.0
TIMEOUTS = ("cpu_timeout", "wall_timeout")
Finished = Callable[[int, Verdict], object]  # place of the sample, and its final verdict


@dataclass(frozen=True)
class Sample:
    """One completion of one problem."""

    problem: Problem
    completion: str
    weak: bool = False  # the test runs with the candidate


class Worker:
    """A judge in a process of its own."""

    def __init__(self, isolation: Isolation, limits: Limits, core: int | None = None) -> None:
        self.seconds = 2 * limits.wall_seconds + START_SECONDS
        self.buffer = b""
        self.busy = False
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "stages.judge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},  # -S: site takes 25 ms
            start_new_session=True,  # an interrupt at the terminal is the pool's to handle
        )
        self.send({"isolation": asdict(isolation), "limits": asdict(limits), "core": core})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """A message, None where the worker died or said nothing for so long."""
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

    def judge(self, sample: Sample, seed: int) -> tuple[Verdict | None, str]:
        """The verdict, or None and the phase in which the worker was lost."""
        job = {"completion": sample.completion, "seed": seed, "weak": sample.weak}
        phase = "sandbox"
        self.busy = True
        try:
            self.send({"problem": asdict(sample.problem), **job})
        except OSError:
            return None, phase
        while message := self.receive(EXTRACT_SECONDS if phase == "extract" else self.seconds):
            if "verdict" in message:
                self.busy = False
                return Verdict(**message["verdict"]), phase
            phase = message["phase"]
        return None, phase

    def close(self) -> None:
        """End the worker: an idle one ends its sandbox first, a busy one is killed and the sandbox dies with it."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(OSError):  # a line that the dead worker did not read
            self.process.stdin.close()
        if not self.busy:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Pool:
    """Judges samples with as many workers as asked for (0: one per core that this process may use)."""

    def __init__(self, isolation: Isolation, limits: Limits, workers: int = 0, seed: int = 0) -> None:
        self.isolation = isolation
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.seed = seed

    def judge(
        self, samples: Sequence[Sample], finished: Finished = lambda index, verdict: None
    ) -> list[Verdict]:
        """Verdicts in the order of the samples; one that ran out of time is run once more, alone.

        `finished` is told of each verdict that is final, by one thread at a time.

        Raises:
            UserError: the judge itself failed on a sample, again and again.
        """

        def final(index: int, verdict: Verdict) -> None:
            if verdict.verdict != "harness_error":
                finished(index, verdict)

        def first(index: int, verdict: Verdict) -> None:
            if verdict.verdict not in TIMEOUTS:
                final(index, verdict)

        verdicts = self.spread(samples, self.workers, first)
        again = [i for i, verdict in enumerate(verdicts) if verdict.verdict in TIMEOUTS]
        for i, alone in zip(again, self.spread([samples[i] for i in again], 1), strict=True):
            verdicts[i] = confirmed(verdicts[i], alone)
            final(i, verdicts[i])
        broken = [i for i, verdict in enumerate(verdicts) if verdict.verdict == "harness_error"]
        if broken:
            task = samples[broken[0]].problem.task_id
            raise UserError(
                f"the judge failed on {len(broken)} samples, {ATTEMPTS} times each; {task}: "
                f"{verdicts[broken[0]].reason}. That says nothing of the model, so no result was written."
            )
        return verdicts

    def spread(
        self, samples: Sequence[Sample], workers: int, finished: Finished = lambda index, verdict: None
    ) -> list[Verdict]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(samples)):
            waiting.put(index)
        verdicts: list[Verdict] = [Verdict("harness_error", "not judged")] * len(samples)
        errors: list[BaseException] = []
        lock = threading.Lock()

        def tell(index: int) -> None:
            with lock:
                finished(index, verdicts[index])

        cores: Sequence[int | None] = [None] * workers
        here = os.sched_getaffinity(0)
        if workers == len(here):  # judge and candidate take turns: on one core they wake up faster
            cores = sorted(here)
        threads = [
            threading.Thread(
                target=self.serve, args=(core, samples, waiting, verdicts, errors, tell), daemon=True
            )
            for core in cores[: len(samples)]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return verdicts

    def serve(
        self,
        core: int | None,
        samples: Sequence[Sample],
        waiting: "queue.SimpleQueue[int]",
        verdicts: list[Verdict],
        errors: list[BaseException],
        tell: Callable[[int], object],
    ) -> None:
        """One thread: a worker of its own, samples until none waits."""
        worker = Worker(self.isolation, self.limits, core)
        try:
            while not errors:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                worker, verdicts[index] = self.insist(worker, samples[index], core)
                tell(index)
        except BaseException as error:
            errors.append(error)
        finally:
            worker.close()

    def insist(self, worker: Worker, sample: Sample, core: int | None) -> tuple[Worker, Verdict]:
        """Judge a sample, with a new worker where the old one was lost; returns the worker to go on with."""
        verdict, phase = None, ""
        for _ in range(ATTEMPTS):
            verdict, phase = worker.judge(sample, self.seed)
            if verdict is None or verdict.verdict == "harness_error":
                worker.close()
                ended = worker.process.returncode
                worker = Worker(self.isolation, self.limits, core)
                if verdict is None and ended == -signal.SIGPROF:  # past the time limit in C code: no accident
                    break
            else:
                return worker, verdict
        return worker, verdict or lost(phase)


def lost(phase: str) -> Verdict:
    """The verdict where every attempt lost its worker in this phase."""
    if phase == "extract":
        return Verdict("syntax_error", "the parser does not survive this text")
    if phase == "test":
        return Verdict("cpu_timeout", "the test program does not end on the answers that came")
    return Verdict("harness_error", "the worker died")


def confirmed(first: Verdict, alone: Verdict) -> Verdict:
    """Both results of a sample that ran out of time: the second counts, the first is kept beside it."""
    same = "the same alone" if first.verdict == alone.verdict else f"first run: {first.verdict}"
    return replace(
        alone,
        reason=f"{alone.reason}; {same}".lstrip("; "),
        first_run=FirstRun(first.verdict, first.cpu_s, first.wall_s),
    )
