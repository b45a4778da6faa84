"""Make a benchmark of one's own code: functions that are held out, with the tests that they have.

    python -m stages.benchmark path/to/repository --name NAME

writes data/sources/NAME.jsonl (problems in HumanEval's shape, with path, line and commit) and
conf/benchmark/NAME.yaml; `- benchmark: [NAME]` in params.yaml scores it, and decontamination keeps it, and what
resembles it, out of training. See docs/own-code.md.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from stages.common.core.errors import UserError

MARK = "# Made by `python -m stages.benchmark`"
CONFIGURATION = """\
# @package _global_
{mark}: {count} functions of {repository} that are held out{at}.
#   `- benchmark: [{name}]` in params.yaml, then dvc repro; or benchmark=[{name}] on a command line
fetch:
  benchmarks:
    {name}:
      kind: file
      path: {path}
      sha256: {sha256}
      format: humaneval
      licence: {licence}
evaluate:
  scoring:
    {name}: {{}} # or max_new_tokens, samples, temperature, style, ...: as evaluate has them
"""


def benchmark_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.benchmark", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("repository", type=Path, help="folder of the repository, or of an unpacked wheel")
    add("--name", required=True, help="of the benchmark")
    add("--share", type=float, default=0.25, help="of the functions to hold out (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the hash that chooses them (default: %(default)s)")
    add("--licence", default="LicenseRef-own", help="SPDX id of the code (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    given = benchmark_options(arguments)
    data, preset = Path(f"data/sources/{given.name}.jsonl"), Path(f"conf/benchmark/{given.name}.yaml")
    check_options(given, data, preset)
    from stages.benchmark.held_out import commit_of, is_chosen, own_functions, python_files, without_copies
    from stages.benchmark.own_tests import doctests, suite_files, top_packages, unit_tests
    from stages.benchmark.proof import proven_problems
    from stages.common.core.files import atomic_write, sha256_file, write_jsonl
    from stages.judge.scoring import open_judge_pool
    from stages.judge.selftest import run_probes
    from stages.judge.settings import JudgeSettings

    sources, commit = python_files(given.repository), commit_of(given.repository)
    unfit, left_out = Counter[str](), Counter[str]()
    functions = without_copies(own_functions(sources, unfit), unfit)
    chosen = [one for one in functions if is_chosen(one, given.share, given.seed)]
    own = top_packages(sources)
    suites = suite_files(sources, own)
    tests = [(one, [*doctests(one, own), *unit_tests(one, suites)]) for one in chosen]
    left_out["has neither examples nor unit tests that can stand alone"] = sum(not t for _, t in tests)
    pool = open_judge_pool(JudgeSettings())
    run_probes(pool)
    problems = proven_problems(given.name, [one for one in tests if one[1]], sources, pool, left_out)
    print(f"{len(functions) + unfit.total() - unfit['taken']} functions and methods in {len(sources)} files")
    print_counts("cannot stand alone", unfit)
    print(f"  {len(functions) - len(chosen)} are not chosen (--share {given.share:g}), and stay for training")
    print_counts("are chosen, but make no problem", left_out)
    if not problems:
        raise UserError(
            f"{given.repository}: no function is left to hold out; nothing was written. Raise --share"
        )
    rows = [
        {**problem.row(), "path": function.path, "line": function.line, "commit": commit}
        for function, problem in problems
    ]
    write_jsonl(data, rows)
    at = f", at commit {commit}" if commit else ""
    facts = {"name": given.name, "path": data, "licence": given.licence, "count": len(rows), "at": at}
    text = CONFIGURATION.format(
        mark=MARK, repository=given.repository.resolve().name, sha256=sha256_file(data), **facts
    )
    with atomic_write(preset) as temporary:
        temporary.write_text(text, "utf-8")
    print(
        f"{len(rows)} problems: {data}, {preset}\nNext: `- benchmark: [{given.name}]` in params.yaml, dvc repro"
    )


def check_options(given: argparse.Namespace, data: Path, preset: Path) -> None:
    """Raise a UserError where a name or number is out of range, or a file is somebody else's."""
    from stages.common.spdx import is_expression

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", given.name):
        raise UserError(f"--name is {given.name!r}: expected letters, digits, '.', '_' and '-'")
    if not 0 < given.share <= 1:
        raise UserError(f"--share is {given.share:g}: expected a number above 0, at most 1")
    if not is_expression(given.licence):
        raise UserError(
            f"--licence is {given.licence!r}: expected an SPDX id such as MIT, or LicenseRef-<name>"
        )
    if not Path("conf/benchmark").is_dir():
        raise UserError("conf/benchmark: no such folder. Run the command in the root of codetune")
    made = preset.exists() and MARK in preset.read_text("utf-8")
    for path in (data, preset):
        if path.exists() and not made:
            raise UserError(f"{path} exists, and this command did not make it. Choose another --name")


def print_counts(title: str, reasons: Counter[str]) -> None:
    """Print how many functions were left out, by reason, the most first."""
    counted = {reason: n for reason, n in reasons.most_common() if n and reason != "taken"}
    print(f"  {sum(counted.values())} {title}")
    for reason, n in counted.items():
        print(f"  {n:6} {reason}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
