"""A made-up sweep: a git repository with experiments that hold the files of the stages."""

import csv
import hashlib
import io
import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.common.git import experiment_ref
from stages.common.statistics import mcnemar_test, wilson_interval
from stages.sweep.results import Attempt

PROBLEMS = 40
BASE = frozenset(range(4))  # problems that the base solves
STAGES = ("train", "merge", "evaluate/base", "evaluate/tuned")
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
        "seconds": 40.0,
    }


def samples_jsonl(passed: frozenset[int]) -> str:
    rows = [
        {"task_id": f"Made/{i}", "verdict": "passed" if i in passed else "wrong"} for i in range(PROBLEMS)
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


def curve_csv(last: float, steps: int = 30) -> str:
    """Return a train.csv whose validation loss ends near `last`."""
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


def experiment_files(cache: Path, passed: frozenset[int], loss: float, level: str = "A") -> Files:
    """Return the files of an experiment whose tuned model solves the problems in `passed`."""
    won, lost = len(passed - BASE), len(BASE - passed)
    metrics: dict[str, dict[str, Any]] = {
        "train": {
            "validation_loss_kept": loss,
            "seconds": 300 + 10 * loss,
            "tokens_per_second": 350.5,
            "peak_memory_mib": 3270,
        },
        "merge": {"seconds": 20.0 + loss},
        "evaluate/base": evaluation_metrics(BASE),
        "evaluate/tuned": evaluation_metrics(passed, level),
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
        "md5": store_folder(cache, {"samples.jsonl": samples_jsonl(passed)}),
    }
    lock["evaluate@tuned"]["outs"].append(folder)
    return {
        **files,
        "reports/train.csv": curve_csv(loss),
        "dvc.lock": yaml.safe_dump({"schema": "2.0", "stages": lock}),
    }


def make_repository(root: Path, files: Mapping[str, str] | None = None) -> str:
    """Make a repository and return its only commit, which has `files` and from which points start."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    made = make_commit(root, files or {"params.yaml": "defaults: []\n"})
    git(root, "update-ref", "refs/heads/main", made)
    return made


def finished_attempt(
    root: Path,
    start: str,
    overrides: Mapping[str, str],
    files: Mapping[str, str],
    objective: float,
    status: str = "ran 5 stages",
) -> Attempt:
    """Return a finished point with an experiment of these files."""
    name = "-".join(f"{key.split('.')[-1]}-{value}" for key, value in overrides.items()) or "point"
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name) + "-0f3a51c2"
    ref = experiment_ref(start, name)
    git(root, "update-ref", ref, make_commit(root, files))
    return Attempt(name, dict(overrides), status, objective, 390.5, ref=ref)


def unfinished_attempt(overrides: Mapping[str, str], status: str, error: str) -> Attempt:
    name = "-".join([*overrides.values(), "77777777"])
    return Attempt(name, dict(overrides), status, None, 12.25, error)
