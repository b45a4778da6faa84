"""Judge completions of a benchmark, alone, without a model and without a pipeline run before it:

    python -m stages.judge samples.jsonl --benchmark humaneval --output verdicts.jsonl

A line of samples.jsonl (or .jsonl.gz) is {"task_id", "completion"} or {"task_id", "solution"}, several per task as they
come; other fields are carried along. A line of the output is the sample's, in the same order, with `verdict`, `reason`,
`cpu_s` and `wall_s`. A benchmark is a name below data/benchmarks; where that file is missing, a name of
fetch.benchmarks, taken from its pinned source and kept in memory; or a file in HumanEval's shape (.jsonl, .jsonl.gz).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.common.errors import UserError
from stages.common.files import read_jsonl, write_jsonl
from stages.common.schema import Problem
from stages.common.statistics import wilson_interval
from stages.judge import benchmark
from stages.judge.scoring import judge, open_pool
from stages.judge.settings import JudgeSettings

FIELDS = ("verdict", "reason", "cpu_s", "wall_s")  # added to a line


def configured(name: str) -> tuple[str, dict[str, Any]]:
    """A benchmark's name, and the sections of the configuration with the preset conf/evaluate/<name>.yaml if there is one.

    The preset may bring the benchmark's source, and name another benchmark (mbppplus-file). {} for a file.
    """
    if benchmark.is_file_name(name):
        return name, {}
    import yaml

    from stages.config.compose import composed

    preset = Path("conf/evaluate", f"{name}.yaml")
    if not preset.exists():
        return name, composed()
    node = yaml.safe_load(preset.read_text("utf-8"))
    return node.get("evaluate", node).get("benchmark", name), composed(f"evaluate={name}")


def problems_of(name: str, sections: dict[str, Any]) -> list[Problem]:
    """The problems of a benchmark: from its file, or where there is none from its pinned source.

    Raises:
        UserError: neither a file nor a benchmark of the configuration, or its source cannot be had.
    """
    if not sections or benchmark.path_of(name).exists():
        return benchmark.load(name)
    from stages.fetch import benchmark_formats
    from stages.fetch.resolve import deliver

    known = sections["fetch"].benchmarks
    if name not in known:
        raise UserError(
            f"--benchmark is {name!r}: there is no {benchmark.path_of(name)}, and the configuration names no such "
            f"benchmark. It names {', '.join(sorted(known))}. conf/evaluate/mine.yaml shows how one is added."
        )
    return benchmark_formats.problems_of(known[name], deliver(known[name]).files)


def read_samples(path: Path, problems: list[Problem]) -> list[tuple[dict[str, Any], str, str]]:
    """Sample lines, each with the problem's task_id and the text to judge.

    A task_id may differ from the problem's in case: evalplus writes Mbpp/2 for what others call MBPP/2.

    Raises:
        UserError: names the line without a known task_id or without a text.
    """
    known = {p.task_id.casefold(): p.task_id for p in problems} | {p.task_id: p.task_id for p in problems}
    samples = []
    for number, row in enumerate(read_jsonl(path), 1):
        texts = [row.get("completion"), row.get("solution")] if isinstance(row, dict) else []
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is None:
            raise UserError(f"{path}, sample {number}: neither a completion nor a solution")
        task = str(row.get("task_id"))
        if task not in known and task.casefold() not in known:
            raise UserError(f"{path}, sample {number}: the benchmark has no task_id {row.get('task_id')!r}")
        samples.append((row, known.get(task) or known[task.casefold()], text))
    if not samples:
        raise UserError(f"{path}: no sample")
    return samples


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.judge", description=__doc__.split("\n")[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("--benchmark", default="humaneval", help="a name, or a file")
    parser.add_argument("--output", type=Path, required=True)
    told = "default: that of the configuration"
    parser.add_argument("--workers", type=int, help=f"judges at once, 0: one per core ({told})")
    parser.add_argument("--cpu-seconds", type=float, help=f"a sample's limit ({told})")
    parser.add_argument("--isolation", choices=("auto", "A", "B", "C"), help=f"docs/evaluate.md ({told})")
    parser.add_argument("--allow-weak-sandbox", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    name, sections = configured(given.benchmark)
    problems = problems_of(name, sections)
    asked = {key: getattr(given, key) for key in ("workers", "cpu_seconds", "isolation")}
    settings = replace(
        sections.get("evaluate", JudgeSettings()),
        **{key: value for key, value in asked.items() if value is not None},
        **({"allow_weak_sandbox": True} if given.allow_weak_sandbox else {}),
    )
    samples = read_samples(given.samples, problems)
    pool = open_pool(settings)
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". "), flush=True)
    result = judge(pool, problems, [(task, text) for _, task, text in samples])
    pairs = zip(samples, result.verdicts, strict=True)
    rows = ({**row, **{name: getattr(verdict, name) for name in FIELDS}} for (row, *_), verdict in pairs)
    write_jsonl(given.output, rows)
    passed = sum(verdict.verdict == "passed" for verdict in result.verdicts)
    low, high = wilson_interval(passed, len(samples))
    print(f"{passed} of {len(samples)} samples passed ({low:.1%} to {high:.1%}): {given.output}")
