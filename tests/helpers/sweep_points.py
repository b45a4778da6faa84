"""A made-up sweep: a git repository with experiments that hold the files of the stages."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.common.git import experiment_ref
from stages.common.statistics import mcnemar_test, wilson_interval
from stages.sweep.point import PointOutcome
from stages.sweep.spec import SweepSpec

PROBLEMS = 40
BASE = frozenset(range(4))  # problems that the base solves
PASS_AT_1 = "reports/evaluate/tuned.json:pass_at_1"
Files = dict[str, str]


def git(root: Path, *arguments: str, given: str | None = None) -> str:
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments]
    done = subprocess.run(command, cwd=root, input=given, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_commit(root: Path, files: Mapping[str, str]) -> str:
    """Commit these files alone and return the commit; the working tree stays empty."""
    git(root, "read-tree", "--empty")
    for path, text in files.items():
        blob = git(root, "hash-object", "-w", "--stdin", given=text)
        git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = git(root, "write-tree")
    return git(root, "commit-tree", tree, "-m", "made up")


def evaluation_metrics(passed: frozenset[int], level: str = "A") -> dict[str, Any]:
    low, high = wilson_interval(len(passed), PROBLEMS)
    return {
        "benchmark": "humaneval",
        "problems": PROBLEMS,
        "passed": len(passed),
        "pass_at_1": len(passed) / PROBLEMS,
        "pass_at_1_low": low,
        "pass_at_1_high": high,
        "isolation": {"level": level, "why": ""},
    }


def samples_jsonl(passed: frozenset[int]) -> str:
    rows = [
        {"benchmark": "humaneval", "task_id": f"Made/{i}", "verdict": "passed" if i in passed else "wrong"}
        for i in range(PROBLEMS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def store_file(cache: Path, text: str) -> str:
    """Put a file into DVC's cache; return its md5."""
    md5 = hashlib.md5(text.encode()).hexdigest()
    path = cache / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return md5


def store_folder(cache: Path, files: Mapping[str, str]) -> str:
    """Put a folder into DVC's cache; return the md5 that dvc.lock has for it."""
    listing = [{"md5": store_file(cache, text), "relpath": path} for path, text in files.items()]
    text = json.dumps(listing)
    md5 = hashlib.md5(text.encode()).hexdigest()
    path = cache / "files/md5" / md5[:2] / f"{md5[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return f"{md5}.dir"


def experiment_files(cache: Path, passed: frozenset[int], loss: float, level: str = "A") -> Files:
    """Return the files of an experiment whose tuned model solves the problems in `passed`."""
    won, lost = len(passed - BASE), len(BASE - passed)
    metrics: dict[str, dict[str, Any]] = {
        "train": {"validation_loss_kept": loss},
        "evaluate/base": evaluation_metrics(BASE),
        "evaluate/tuned": evaluation_metrics(passed, level),
        "report": {
            "p": mcnemar_test(won, lost),
            "difference": (won - lost) / PROBLEMS,
            "weak_sandbox": level == "C",
        },
    }
    files = {f"reports/{stage}.json": json.dumps(values) for stage, values in metrics.items()}
    folder = {
        "path": "reports/evaluate/tuned",
        "hash": "md5",
        "md5": store_folder(cache, {"samples.jsonl": samples_jsonl(passed)}),
    }
    lock = {"schema": "2.0", "stages": {"evaluate@tuned": {"outs": [folder]}}}
    return {**files, "dvc.lock": yaml.safe_dump(lock)}


def make_repository(root: Path, files: Mapping[str, str] | None = None) -> str:
    """Make a repository and return its only commit, which has `files` and from which points start."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    made = make_commit(root, files or {"params.yaml": "defaults: []\n"})
    git(root, "update-ref", "refs/heads/main", made)
    return made


def finished_point(
    root: Path,
    start: str,
    overrides: Mapping[str, str],
    files: Mapping[str, str],
    objective: float,
    status: str = "ran 5 stages",
) -> PointOutcome:
    """Return a finished point with an experiment of these files."""
    name = "-".join(f"{key.split('.')[-1]}-{value}" for key, value in overrides.items()) or "point"
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    git(root, "update-ref", experiment_ref(start, name), make_commit(root, files))
    times = {"train_seconds": 309.0, "tokens_per_second": 350.5, "peak_memory_mib": 3270}
    return PointOutcome(0, name, status, objective, 390.5, overrides=dict(overrides), times=times)


def unfinished_point(overrides: Mapping[str, str], status: str, error: str) -> PointOutcome:
    name = "-".join(f"{key.split('.')[-1]}-{value}" for key, value in overrides.items())
    return PointOutcome(0, name, status, None, 12.25, error, dict(overrides))


def sweep_spec(root: Path, commit: str, cache: Path | str = "", **changes: Any) -> SweepSpec:
    values = {"objective": PASS_AT_1, "name": "ranks", "tree": f"{commit}^{{tree}}"} | changes
    places = {"root": str(root), "commit": commit, "cache": str(cache), "tracking_uri": ""}
    return SweepSpec(**places, git_identity=(), fixed=(), **values)
