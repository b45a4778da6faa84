"""The judge of one sample after another, in a process of its own: the pool's worker.

A test program that outlasts its CPU limit in C code takes its process with it (SIGPROF,
`stub.time_limit`). That must not be the process that runs pytest, so tests judge samples through
this class or a pool.
"""

import signal

from stages.common.rows.schema import Problem
from stages.judge.pool import Worker
from stages.judge.sandbox.host import Isolation, Limits
from stages.judge.verdict import Submission, Verdict


class JudgeDied(AssertionError):
    """The judge's process ended, or did not answer, before it gave a verdict."""


class JudgeProcess:
    """Judges samples in a process that is replaced after its death."""

    def __init__(self, isolation: Isolation, limits: Limits) -> None:
        self.isolation = isolation
        self.limits = limits
        self.worker = Worker(isolation, limits)

    def judge(
        self,
        problem: Problem,
        completion: str,
        seed: int = 0,
        test_in_sandbox: bool = False,
        sleeps: bool = False,
    ) -> Verdict:
        """Return the verdict on a completion. One that waits for a core is not taken for asleep, unless it `sleeps`.

        Raises:
            JudgeDied: the process was lost; says in which phase and how it ended.
        """
        submission = Submission(problem, completion, test_in_sandbox)
        verdict, phase = self.worker.attempt(submission, seed, patient=not sleeps)
        if verdict is None:
            self.close()
            status = self.worker.process.returncode
            ending = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            self.worker.start()
            raise JudgeDied(f"{problem.task_id}: the judge's process ended in phase {phase!r} ({ending})")
        return verdict

    def close(self) -> None:
        self.worker.close()
