"""Judge completions of a benchmark, without a model and without running the pipeline first:

    python -m stages.judge samples.jsonl --benchmark humaneval --output verdicts.jsonl

A line of samples.jsonl (or .jsonl.gz; `-` is standard input) is {"task_id", "completion"} or {"task_id",
"solution"}; a task may have several lines, in any order, and other fields are copied to the output. The output
has a line per sample, in the same order, with `verdict`, `reason`, `cpu_s` and `wall_s` added. A benchmark is a
name below data/benchmarks; where that file is missing, a name of fetch.benchmarks, which is downloaded from its
pinned source and kept in memory; or a file in HumanEval's shape (.jsonl, .jsonl.gz).

Verdicts are kept beside the output as they come, so that the same command resumes an interrupted one.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from stages.common.core.errors import UserError
from stages.common.core.files import read_jsonl, write_jsonl
from stages.common.rows.schema import Problem
from stages.common.statistics import pass_at_k_interval
from stages.judge.benchmark import benchmark_path, is_file_name, load_benchmark
from stages.judge.kept import KeptResults
from stages.judge.pool import spawn_ahead
from stages.judge.scoring import judge_benchmark, open_judge_pool
from stages.judge.settings import FENCE_CHOICES, ISOLATION_CHOICES, JudgeSettings
from stages.judge.verdict import Verdict

PASS_AT = (1, 10, 100)  # each k of pass@k that is printed, where every problem has as many samples
OVERRIDES = ("workers", "cpu_seconds", "isolation", "fence", "packages", "allow_weak_sandbox")
Sample = tuple[dict[str, Any], str, str]  # a line, the problem's task_id, the text to judge


def judge_settings(name: str) -> tuple[str, JudgeSettings]:
    """Return a benchmark's name, and the settings of params.yaml and its file conf/benchmark/<name>.yaml.

    The file may name another benchmark (mbppplus-file). Hydra would take a second to read these two files.
    """
    if is_file_name(name):
        return name, JudgeSettings()
    import yaml

    paths = Path("conf/benchmark", f"{name}.yaml"), Path("params.yaml")
    preset, params = (yaml.safe_load(p.read_text("utf-8")) if p.exists() else {} for p in paths)
    scoring = preset.get("evaluate", {}).get("scoring", {name: {}})
    found = next(iter(scoring))
    chosen = params.get("evaluate") or {}
    section = {**scoring[found], **chosen, **(chosen.get("scoring", {}).get(found) or {})}
    own = {field.name: section[field.name] for field in fields(JudgeSettings) if field.name in section}
    return found, JudgeSettings(**own)


def load_problems(name: str, preset: str) -> list[Problem]:
    """Return a benchmark's problems: from its file, else from its pinned source, which a preset may define.

    Raises:
        UserError: neither a file nor a benchmark of the configuration, or its source is unavailable.
    """
    if is_file_name(name) or benchmark_path(name).exists():
        return load_benchmark(name)
    from stages.config.compose import compose_config
    from stages.fetch import benchmark_formats
    from stages.fetch.resolve import resolve_source

    overrides = [f"benchmark=[{preset}]"] if Path("conf/benchmark", f"{preset}.yaml").exists() else []
    known = compose_config(*overrides)["fetch"].benchmarks
    if name not in known:
        raise UserError(
            f"--benchmark is {name!r}: {benchmark_path(name)} does not exist, and the configuration has no such "
            f"benchmark. It has {', '.join(sorted(known))}. To add one, see conf/benchmark/mine.yaml."
        )
    return benchmark_formats.parse_benchmark(known[name], resolve_source(known[name]).files)


def read_samples(path: Path, problems: list[Problem]) -> list[Sample]:
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
    for number, row in enumerate(read_jsonl("/dev/stdin" if str(path) == "-" else path), 1):
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


def summary_lines(
    problems: Sequence[Problem], samples: Sequence[Sample], verdicts: Sequence[Verdict]
) -> list[str]:
    """Return pass@k over the problems that have samples, and what was not judged or lacked a module."""
    made, passed = Counter(task for _, task, _ in samples), Counter[str]()
    for (_, task, _), verdict in zip(samples, verdicts, strict=True):
        passed[task] += verdict.verdict == "passed"
    counts = [(total, passed[task]) for task, total in made.items()]
    lines = []
    for k in (k for k in PASS_AT if k <= min(made.values())):
        value, low, high = pass_at_k_interval(counts, k)
        lines.append(f"pass@{k} {value:.1%} (95%: {low:.1%} to {high:.1%}) over {len(made)} problems")
    without = [problem.task_id for problem in problems if problem.task_id not in made]
    if without:
        shown = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        lines.append(f"{len(without)} problems without a sample, not counted: {shown}")
    failed = [verdict.reason for verdict in verdicts if verdict.verdict != "passed"]
    modules = Counter(name for reason in failed for name in re.findall(r"No module named '([\w.]+)'", reason))
    if modules:
        counted = ", ".join(f"{name} ({count})" for name, count in modules.most_common())
        lines.append(f"failures for want of a module: {counted}; --packages gives installed ones")
    return lines


def parse_arguments() -> argparse.Namespace:
    about = __doc__.split("\n")[0].rstrip(":")
    parser = argparse.ArgumentParser(prog="python -m stages.judge", description=about)
    add, default = parser.add_argument, "default: from the configuration"
    add("samples", type=Path, help="JSON lines with task_id and completion; -: standard input")
    add("--benchmark", default="humaneval", help="a name or a file (default: %(default)s)")
    add("--output", type=Path, required=True, help="where to write the verdicts, JSON lines")
    add("--workers", type=int, help=f"judges at once; 0: one per core ({default})")
    add("--cpu-seconds", type=float, help=f"CPU time a sample may use ({default})")
    add("--isolation", choices=ISOLATION_CHOICES, help=f"see docs/evaluate.md ({default})")
    add("--fence", choices=FENCE_CHOICES, help=f"which of several fences counts ({default})")
    add("--packages", nargs="*", help=f"installed packages to import ({default})")
    add(
        "--allow-weak-sandbox",
        action="store_true",
        default=None,
        help="accept level C: resource limits alone",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.is_dir():
        raise UserError(f"--output: {arguments.output} is a folder. Name a file in it")
    name, configured = judge_settings(arguments.benchmark)
    given = {key: value for key in OVERRIDES if (value := getattr(arguments, key)) is not None}
    settings = replace(configured, **given)
    spawn_ahead(settings.workers)
    problems = load_problems(name, arguments.benchmark)
    samples = read_samples(arguments.samples, problems)
    pool = open_judge_pool(settings)
    texts = [sample[1:] for sample in samples]
    facts = [asdict(settings), pool.isolation.level, list(map(asdict, problems)), texts]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    output: Path = arguments.output
    kept = KeptResults(output.with_name(output.name + ".partial"), digest, Verdict)
    done = f", {len(kept.results)} verdicts kept" if kept.results else ""
    print(f"isolation: level {pool.isolation.level}. {pool.isolation.why}".rstrip(". ") + done, flush=True)
    missing = [index for index in range(len(samples)) if (index,) not in kept.results]
    pairs = [texts[index] for index in missing]
    try:
        judge_benchmark(pool, problems, pairs, settings.fence, lambda i, v: kept.keep((missing[i],), v))
    except KeyboardInterrupt:
        raise UserError(
            f"interrupted: {len(kept.results)} of {len(samples)} verdicts are kept in {kept.path}. The same command "
            "resumes"
        ) from None
    verdicts = [kept.results[index,] for index in range(len(samples))]
    write_jsonl(output, ({**row, **asdict(v)} for (row, *_), v in zip(samples, verdicts, strict=True)))
    kept.close()
    passed = sum(verdict.verdict == "passed" for verdict in verdicts)
    print(f"{passed} of {len(samples)} samples passed: {output}")
    print("\n".join(summary_lines(problems, samples, verdicts)))
