"""A made-up sweep: a git repository whose refs hold experiments with the files that the stages write."""

import csv
import hashlib
import io
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.common.git import experiment_ref
from stages.common.statistics import mcnemar_test, wilson_interval
from stages.sweep.results import Tried

PROBLEMS = 40
BASE = frozenset(range(4))  # problems that the base solves
STAGES = ("train", "merge", "evaluate/base", "evaluate/tuned")
Files = dict[str, str]


def git(root: Path, *arguments: str, given: str | None = None) -> str:
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments]
    done = subprocess.run(command, cwd=root, input=given, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, files: Mapping[str, str]) -> str:
    """A commit of these files alone; the working tree stays empty."""
    git(root, "read-tree", "--empty")
    for path, text in files.items():
        blob = git(root, "hash-object", "-w", "--stdin", given=text)
        git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = git(root, "write-tree")
    return git(root, "commit-tree", tree, "-m", "made up")


def scored(passed: frozenset[int], level: str = "A") -> dict[str, Any]:
    low, high = wilson_interval(len(passed), PROBLEMS)
    return {
        "benchmark": "humaneval",
        "problems": PROBLEMS,
        "passed": len(passed),
        "pass_at_1": len(passed) / PROBLEMS,
        "pass_at_1_low": low,
        "pass_at_1_high": high,
        "isolation": {"level": level, "why": ""},
        "seconds": 40.0,
    }


def samples(passed: frozenset[int]) -> str:
    rows = [
        {"task_id": f"Made/{i}", "verdict": "passed" if i in passed else "wrong"} for i in range(PROBLEMS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def store(cache: Path, text: str) -> str:
    """Put a file into DVC's cache; its md5."""
    md5 = hashlib.md5(text.encode()).hexdigest()
    path = cache / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return md5


def store_folder(cache: Path, files: Mapping[str, str]) -> str:
    """Put a folder into DVC's cache; the md5 that dvc.lock names it by."""
    listing = [{"md5": store(cache, text), "relpath": path} for path, text in files.items()]
    text = json.dumps(listing)
    md5 = hashlib.md5(text.encode()).hexdigest()
    path = cache / "files/md5" / md5[:2] / f"{md5[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return f"{md5}.dir"


def curve(last: float, steps: int = 30) -> str:
    """A train.csv that ends near a validation loss."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ["step", "loss", "validation_loss"], lineterminator="\n")
    writer.writeheader()
    for step in range(steps + 1):
        loss = last + math.exp(-step / 6)
        writer.writerow(
            {
                "step": step,
                "loss": round(loss + 0.08 * math.sin(2.4 * step), 5) if step else "",
                "validation_loss": round(loss, 5) if step % 6 == 0 else "",
            }
        )
    return file.getvalue()


def experiment(cache: Path, passed: frozenset[int], loss: float, level: str = "A") -> Files:
    """Files of an experiment whose tuned model solves the problems of `passed`."""
    won, lost = len(passed - BASE), len(BASE - passed)
    metrics: dict[str, dict[str, Any]] = {
        "train": {
            "validation_loss_kept": loss,
            "seconds": 300 + 10 * loss,
            "tokens_per_second": 350.5,
            "peak_memory_mib": 3270,
        },
        "merge": {"seconds": 20.0 + loss},
        "evaluate/base": scored(BASE),
        "evaluate/tuned": scored(passed, level),
        "report": {
            "p": mcnemar_test(won, lost),
            "difference": (won - lost) / PROBLEMS,
            "weak_sandbox": level == "C",
        },
    }
    files = {f"reports/{stage}.json": json.dumps(values) for stage, values in metrics.items()}
    lock: dict[str, Any] = {
        stage.replace("/", "@"): {
            "cmd": stage,
            "outs": [
                {
                    "path": f"reports/{stage}.json",
                    "md5": hashlib.md5(files[f"reports/{stage}.json"].encode()).hexdigest(),
                }
            ],
        }
        for stage in STAGES
    }
    folder = {
        "path": "reports/evaluate/tuned",
        "hash": "md5",
        "md5": store_folder(cache, {"samples.jsonl": samples(passed)}),
    }
    lock["evaluate@tuned"]["outs"].append(folder)
    return {
        **files,
        "reports/train.csv": curve(loss),
        "dvc.lock": yaml.safe_dump({"schema": "2.0", "stages": lock}),
    }


def repository(root: Path, files: Mapping[str, str] | None = None) -> str:
    """An empty repository with one commit of `files`, from which points start; that commit."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    made = commit(root, files or {"params.yaml": "defaults: []\n"})
    git(root, "update-ref", "refs/heads/main", made)
    return made


def finished(
    root: Path,
    start: str,
    overrides: Mapping[str, str],
    files: Mapping[str, str],
    objective: float,
    status: str = "ran 5 stages",
) -> Tried:
    """A point with an experiment of these files."""
    name = "-".join(f"{key.split('.')[-1]}-{value}" for key, value in overrides.items()) or "point"
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name) + "-0f3a51c2"
    ref = experiment_ref(start, name)
    git(root, "update-ref", ref, commit(root, files))
    return Tried(name, dict(overrides), status, objective, 390.5, ref=ref)


def unfinished(overrides: Mapping[str, str], status: str, error: str) -> Tried:
    name = "-".join([*overrides.values(), "77777777"])
    return Tried(name, dict(overrides), status, None, 12.25, error)


def solved(numbers: Sequence[int] | range) -> frozenset[int]:
    return frozenset(numbers)
