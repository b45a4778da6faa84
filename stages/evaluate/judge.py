"""Judge completions of a benchmark, alone, without a model:

    python -m stages.evaluate.judge samples.jsonl --benchmark humaneval --output verdicts.jsonl

A line of samples.jsonl is {"task_id", "completion"} or {"task_id", "solution"}, several per task as they come; other
fields are carried along. A line of the output is the sample's, in the same order, with `verdict`, `reason`, `cpu_s`
and `wall_s`. A benchmark is a name below data/benchmarks or a file in HumanEval's shape (.jsonl, .jsonl.gz).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_jsonl, write_jsonl
from stages.common.schema import Problem
from stages.common.statistics import wilson
from stages.evaluate import benchmark
from stages.evaluate.isolation import detect
from stages.evaluate.pool import Pool, Sample
from stages.evaluate.sandbox import Isolation, Limits
from stages.evaluate.selftest import SelfTest, self_test
from stages.evaluate.settings import EvaluateSettings
from stages.evaluate.worker import Verdict


@dataclass(frozen=True)
class Judgement:
    """Verdicts in the order of the samples, and what was established before the first of them."""

    verdicts: list[Verdict]
    isolation: Isolation
    self_test: SelfTest

    def facts(self) -> dict[str, Any]:
        """What a report says of the judge: level and why, weak flag, self-test, count of each verdict."""
        counted = Counter(verdict.verdict for verdict in self.verdicts)
        return {
            "verdicts": dict(sorted(counted.items())),
            "isolation": {"level": self.isolation.level, "why": self.isolation.why},
            "weak_sandbox": self.isolation.level == "C",
            "self_test": asdict(self.self_test),
        }


def open_pool(settings: EvaluateSettings) -> Pool:
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
    progress: Callable[[int], object] | None = None,
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
            "evaluate.cpu_seconds or evaluate.memory_mib."
        )
    by_id = {problem.task_id: problem for problem in problems}
    weak = set(tested.weak)
    samples = [Sample(by_id[task], text, task in weak) for task, text in completions]
    return Judgement(pool.judge(samples, progress), pool.isolation, tested)


def read_samples(path: Path, known: set[str]) -> list[tuple[dict[str, Any], str]]:
    """Sample lines with the text to judge.

    Raises:
        UserError: names the line without a known task_id or without a text.
    """
    samples = []
    for number, row in enumerate(read_jsonl(path), 1):
        text = row.get("completion", row.get("solution")) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UserError(f"{path}, sample {number}: neither a completion nor a solution")
        if row.get("task_id") not in known:
            raise UserError(f"{path}, sample {number}: the benchmark has no task_id {row.get('task_id')!r}")
        samples.append((row, text))
    if not samples:
        raise UserError(f"{path}: no sample")
    return samples


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.evaluate.judge", description=__doc__.split("\n")[0]
    )
    parser.add_argument("samples", type=Path)
    parser.add_argument("--benchmark", default="humaneval", help="a name below data/benchmarks, or a file")
    parser.add_argument("--output", type=Path, required=True)
    defaults = EvaluateSettings()
    parser.add_argument("--workers", type=int, default=defaults.workers, help="0: one per core")
    parser.add_argument("--cpu-seconds", type=float, default=defaults.cpu_seconds, help="a sample's limit")
    parser.add_argument("--isolation", default=defaults.isolation, choices=("auto", "A", "B", "C"))
    parser.add_argument("--allow-weak-sandbox", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    settings = EvaluateSettings(
        workers=given.workers,
        cpu_seconds=given.cpu_seconds,
        isolation=given.isolation,
        allow_weak_sandbox=given.allow_weak_sandbox,
    )
    problems = benchmark.load(given.benchmark)
    samples = read_samples(given.samples, {problem.task_id for problem in problems})
    pool = open_pool(settings)
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". "))
    result = judge(pool, problems, [(row["task_id"], text) for row, text in samples])
    rows = ({**row, **asdict(verdict)} for (row, _), verdict in zip(samples, result.verdicts, strict=True))
    write_jsonl(given.output, rows)
    passed = sum(verdict.verdict == "passed" for verdict in result.verdicts)
    low, high = wilson(passed, len(samples))
    print(f"{passed} of {len(samples)} samples passed ({low:.1%} to {high:.1%}): {given.output}")


if __name__ == "__main__":
    try:
        main()
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
