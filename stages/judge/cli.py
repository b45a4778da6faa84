"""Judge completions of a benchmark, without a model and without running the pipeline first:

    python -m stages.judge samples.jsonl --benchmark humaneval --output verdicts.jsonl

A line of samples.jsonl (or .jsonl.gz) is {"task_id", "completion"} or {"task_id", "solution"}; a task may
have several lines, in any order, and other fields are copied to the output. The output has a line per sample,
in the same order, with `verdict`, `reason`, `cpu_s` and `wall_s` added. A benchmark is a name below
data/benchmarks; where that file is missing, a name of fetch.benchmarks, which is downloaded from its pinned
source and kept in memory; or a file in HumanEval's shape (.jsonl, .jsonl.gz).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_jsonl, write_jsonl
from stages.common.schema import Problem
from stages.common.statistics import wilson_interval
from stages.judge.benchmark import benchmark_path, is_file_name, load_benchmark
from stages.judge.scoring import judge_benchmark, open_judge_pool
from stages.judge.settings import ISOLATION_CHOICES, JudgeSettings

VERDICT_FIELDS = ("verdict", "reason", "cpu_s", "wall_s")  # added to each sample's line


def resolve_benchmark(name: str) -> tuple[str, dict[str, Any]]:
    """Return a benchmark's name, and the configuration with its preset conf/evaluate/<name>.yaml, if any.

    The preset may define the benchmark's source, and name another benchmark (mbppplus-file). {} for a file.
    """
    if is_file_name(name):
        return name, {}
    import yaml

    from stages.config.compose import compose_config

    preset = Path("conf/evaluate", f"{name}.yaml")
    if not preset.exists():
        return name, compose_config()
    node = yaml.safe_load(preset.read_text("utf-8"))
    return node.get("evaluate", node).get("benchmark", name), compose_config(f"evaluate={name}")


def load_problems(name: str, sections: dict[str, Any]) -> list[Problem]:
    """Return the problems of a benchmark: from its file, or where that is missing from its pinned source.

    Raises:
        UserError: neither a file nor a benchmark of the configuration, or its source is unavailable.
    """
    if not sections or benchmark_path(name).exists():
        return load_benchmark(name)
    from stages.fetch import benchmark_formats
    from stages.fetch.resolve import resolve_source

    known = sections["fetch"].benchmarks
    if name not in known:
        raise UserError(
            f"--benchmark is {name!r}: {benchmark_path(name)} does not exist, and the configuration has no such "
            f"benchmark. It has {', '.join(sorted(known))}. To add one, see conf/evaluate/mine.yaml."
        )
    return benchmark_formats.parse_benchmark(known[name], resolve_source(known[name]).files)


def read_samples(path: Path, problems: list[Problem]) -> list[tuple[dict[str, Any], str, str]]:
    """Return sample lines, each with the problem's task_id and the text to judge.

    A task_id may differ from the problem's in case (evalplus writes Mbpp/2 for MBPP/2), or be its number. A
    solution counts before a completion, as in evalplus.

    Raises:
        UserError: a line has no known task_id or no text; names the line.
    """
    ids = [problem.task_id for problem in problems]
    known = {one.rpartition("/")[2]: one for one in ids} | {one.casefold(): one for one in ids}
    known |= {one: one for one in ids}
    samples = []
    for number, row in enumerate(read_jsonl(path), 1):
        texts = [row.get("solution"), row.get("completion")] if isinstance(row, dict) else []
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is None:
            raise UserError(f"{path}, sample {number}: has neither a completion nor a solution")
        task = str(row.get("task_id"))
        if task not in known and task.casefold() not in known:
            raise UserError(f"{path}, sample {number}: the benchmark has no task_id {row.get('task_id')!r}")
        samples.append((row, known.get(task) or known[task.casefold()], text))
    if not samples:
        raise UserError(f"{path}: holds no samples. Expected a JSON object per line")
    return samples


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.judge", description=__doc__.split("\n")[0].rstrip(":")
    )
    parser.add_argument(
        "samples", type=Path, help="JSON lines (.jsonl, .jsonl.gz) with task_id and completion"
    )
    parser.add_argument("--benchmark", default="humaneval", help="a name or a file (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="where to write the verdicts, JSON lines")
    default = "default: from the configuration"
    parser.add_argument("--workers", type=int, help=f"judges at once; 0: one per core ({default})")
    parser.add_argument("--cpu-seconds", type=float, help=f"CPU time a sample may use ({default})")
    parser.add_argument("--isolation", choices=ISOLATION_CHOICES, help=f"see docs/evaluate.md ({default})")
    parser.add_argument(
        "--allow-weak-sandbox", action="store_true", help="accept level C, where only resource limits apply"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    name, sections = resolve_benchmark(arguments.benchmark)
    problems = load_problems(name, sections)
    overrides = {key: getattr(arguments, key) for key in ("workers", "cpu_seconds", "isolation")}
    settings = replace(
        sections.get("evaluate", JudgeSettings()),
        **{key: value for key, value in overrides.items() if value is not None},
        **({"allow_weak_sandbox": True} if arguments.allow_weak_sandbox else {}),
    )
    samples = read_samples(arguments.samples, problems)
    pool = open_judge_pool(settings)
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". "), flush=True)
    judgement = judge_benchmark(pool, problems, [(task, text) for _, task, text in samples])
    pairs = zip(samples, judgement.verdicts, strict=True)
    rows = (
        {**row, **{field: getattr(verdict, field) for field in VERDICT_FIELDS}}
        for (row, *_), verdict in pairs
    )
    write_jsonl(arguments.output, rows)
    passed = sum(verdict.verdict == "passed" for verdict in judgement.verdicts)
    low, high = wilson_interval(passed, len(samples))
    print(f"{passed} of {len(samples)} samples passed ({low:.1%} to {high:.1%}): {arguments.output}")
