"""Judges completions of a benchmark after testing the judge itself; what the stage and the command line share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.common.errors import UserError
from stages.common.schema import Problem
from stages.judge.pool import Finished, Pool, Sample
from stages.judge.sandbox.host import Isolation, Limits
from stages.judge.sandbox.levels import detect
from stages.judge.selftest import SelfTest, self_test
from stages.judge.settings import JudgeSettings
from stages.judge.verdict import WEAK, Verdict


@dataclass(frozen=True)
class Judgement:
    """Verdicts in the order of the samples, and what was established before the first of them."""

    verdicts: list[Verdict]
    isolation: Isolation
    self_test: SelfTest

    def facts(self) -> dict[str, Any]:
        """What a report says of the judge: level and why, weak flag, self-test, count of each verdict.

        `weak_passed` are those of the passed whose test ran with the candidate, so that it could have answered for it.
        """
        counted = Counter(verdict.verdict for verdict in self.verdicts)
        passed = [verdict for verdict in self.verdicts if verdict.verdict == "passed"]
        return {
            "verdicts": dict(sorted(counted.items())),
            "weak_passed": sum(verdict.reason.startswith(WEAK) for verdict in passed),
            "isolation": {"level": self.isolation.level, "why": self.isolation.why},
            "weak_sandbox": self.isolation.level == "C",
            "self_test": asdict(self.self_test),
        }


def open_pool(settings: JudgeSettings) -> Pool:
    """A pool at the highest level of isolation that the machine gives, or the one that is set.

    Raises:
        UserError: that is level C, and `evaluate.allow_weak_sandbox` is not set.
    """
    isolation = detect(settings.isolation)
    if isolation.level == "C" and not settings.allow_weak_sandbox:
        raise UserError(
            "only resource limits are to be had here, so that generated code could read files, use the network and "
            f"start programs. {isolation.why or 'Level C was asked for'}. Install bubblewrap, or take the risk with "
            "evaluate.allow_weak_sandbox=true (--allow-weak-sandbox)."
        )
    limits = Limits(settings.cpu_seconds, settings.memory_mib << 20)
    return Pool(isolation, limits, settings.workers, settings.seed)


def judge(
    pool: Pool,
    problems: Sequence[Problem],
    completions: Sequence[tuple[str, str]],
    finished: Finished = lambda index, verdict: None,
) -> Judgement:
    """Test the judge itself on the benchmark, then judge pairs of task_id and completion.

    Raises:
        UserError: a canonical solution fails, a probe gets out, or the judge fails on a sample.
    """
    tested = self_test(problems, pool)
    if tested.canonical_failed:
        listed = "; ".join(f"{task} ({why})" for task, why in list(tested.canonical_failed.items())[:5])
        raise UserError(
            f"{len(tested.canonical_failed)} of {tested.canonical} canonical solutions of the benchmark do not pass: "
            f"{listed}. A score would count the judge's faults as the model's. If one lacks time or memory, raise "
            "evaluate.cpu_seconds or evaluate.memory_mib, or leave the task out with `exclude` of its benchmark."
        )
    by_id = {problem.task_id: problem for problem in problems}
    weak = set(tested.weak)
    samples = [Sample(by_id[task], text, task in weak) for task, text in completions]
    return Judgement(pool.judge(samples, finished), pool.isolation, tested)
