"""A model folder under transformers 4 and 5: the same tokens, the same loss, and the same end tokens.

    python -m benchmarks.portable                        # models/merged
    python -m benchmarks.portable --model models/base

transformers 4 gets an environment of its own under .cache/benchmarks; torch is this one's. Exits with status 1 where the two
differ.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.peers import python_of

PEER = ("transformers==4.57.3",)
TEXT = Path("stages/common/core/files.py")
# Two versions sum in other orders; a wrong rope_theta moved the default model's loss by 0.06
TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/merged"))
    model = parser.parse_args().model
    python = python_of("transformers4", *PEER)
    borrow_torch(python)
    seen = [run(interpreter, model) for interpreter in (Path(sys.executable), python)]
    for one in seen:
        print(
            f"transformers {one['version']}: {one['tokens']} tokens, loss {one['loss']:.4f}, ends {one['ends']}"
        )
    ours, theirs = seen
    same = all(ours[key] == theirs[key] for key in ("ids", "ends"))
    if not same or abs(ours["loss"] - theirs["loss"]) > TOLERANCE:
        sys.exit(f"error: {model} is not the same under both versions")


def borrow_torch(python: Path) -> None:
    """Let an environment find this one's packages after its own."""
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")


def run(python: Path, model: Path) -> dict[str, Any]:
    command = [str(python), "-m", "benchmarks.portable_run", str(model), str(TEXT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n" + done.stderr[-1500:])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
