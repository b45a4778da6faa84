"""Judge completions of a benchmark after testing the judge itself; for the stage and the command line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.judge.pool import OnVerdict, Pool
from stages.judge.sandbox.host import Isolation, Limits
from stages.judge.sandbox.levels import detect
from stages.judge.selftest import SelfTest, self_test_submissions, sum_up_self_test
from stages.judge.settings import JudgeSettings
from stages.judge.verdict import WEAK_PREFIX, Submission, Verdict


@dataclass(frozen=True)
class Judgement:
    """Verdicts in the order of the samples, with the isolation level and self-test they rest on."""

    verdicts: list[Verdict]
    isolation: Isolation
    self_test: SelfTest

    def facts(self) -> dict[str, Any]:
        """Return the judge's part of the metrics: counts of verdicts, isolation level and why, self-test.

        `weak_passed` counts passes whose test ran beside the candidate, which could have forged them.
        """
        counts = Counter(verdict.verdict for verdict in self.verdicts)
        passed = [verdict for verdict in self.verdicts if verdict.verdict == "passed"]
        return {
            "verdicts": dict(sorted(counts.items())),
            "weak_passed": sum(verdict.reason.startswith(WEAK_PREFIX) for verdict in passed),
            "isolation": {"level": self.isolation.level, "why": self.isolation.why},
            "weak_sandbox": self.isolation.level == "C",
            "self_test": asdict(self.self_test),
        }


def open_judge_pool(settings: JudgeSettings) -> Pool:
    """Return a pool at the configured isolation level, or the highest that this machine supports.

    Raises:
        UserError: the level is C, and `evaluate.allow_weak_sandbox` is not set.
    """
    isolation = detect(settings.isolation, packages=settings.packages)
    if isolation.level == "C" and not settings.allow_weak_sandbox:
        raise UserError(
            "only resource limits are available here: generated code could read files, use the network and start "
            f"programs. {isolation.why or 'evaluate.isolation is C'}. Install bubblewrap, or accept the risk with "
            "evaluate.allow_weak_sandbox=true (--allow-weak-sandbox)."
        )
    limits = Limits(settings.cpu_seconds, settings.memory_mib << 20)
    return Pool(isolation, limits, settings.workers, settings.seed)


def judge_benchmark(
    pool: Pool,
    problems: Sequence[Problem],
    completions: Sequence[tuple[str, str]],
    fence: str = "last",
    on_verdict: OnVerdict = lambda index, verdict: None,
) -> Judgement:
    """Judge pairs of task_id and completion, after canonical solutions and probes that test the judge itself.

    `on_verdict` is called with the index and verdict of each completion as it is judged.

    Raises:
        UserError: a canonical solution fails, a probe escapes the sandbox, or the judge fails on a sample.
    """
    by_id = {problem.task_id: problem for problem in problems}
    tests = self_test_submissions(problems)
    samples = [Submission(by_id[task], text, fence=fence) for task, text in completions]

    def report(index: int, verdict: Verdict) -> None:
        if index >= len(tests) and verdict.verdict != "unsupported_value":  # may be judged otherwise, below
            on_verdict(index - len(tests), verdict)

    judged = pool.judge_all([*tests, *samples], report)
    self_test = sum_up_self_test(problems, pool, judged[: len(tests)])
    if self_test.canonical_failed:
        failed = "; ".join(f"{task} ({why})" for task, why in list(self_test.canonical_failed.items())[:5])
        raise UserError(
            f"{len(self_test.canonical_failed)} of {self_test.canonical} canonical solutions of the benchmark fail: "
            f"{failed}. A score would blame the model for the judge's faults. If one runs out of time or memory, raise "
            "evaluate.cpu_seconds or evaluate.memory_mib, or drop the task with `exclude` of its benchmark."
        )
    verdicts = judged[len(tests) :]
    beside = [i for i, (task, _) in enumerate(completions) if task in self_test.weak]
    again = pool.judge_all([replace(samples[i], test_in_sandbox=True) for i in beside])
    for i, verdict in zip(beside, again, strict=True):
        verdicts[i] = verdict
    for i, verdict in enumerate(verdicts):
        if i in beside or verdict.verdict == "unsupported_value":
            on_verdict(i, verdict)
    return Judgement(verdicts, pool.isolation, self_test)
