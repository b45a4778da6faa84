"""Virtual environments of the programs that are measured against, under .cache/benchmarks."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(".cache/benchmarks")
NEAR = (
    "datatrove[io]==0.10.1",
    "datasketch==2.0.0",
    "xxhash==3.8.2",
    "spacy==3.8.18",
    "tokenizers==0.23.3",
    "regex==2026.11.19",
)
TRL = ("torch==2.13.0", "trl==1.16.0")


def python_of(name: str, *pinned: str) -> Path:
    """The interpreter of an environment that holds these packages alone; made where it is missing.

    Args:
        name: of the folder.
        pinned: requirements with their versions, as pip reads them.

    Raises:
        SystemExit: pip fails; with its last words.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    mark = folder / "installed"
    if not mark.exists() or mark.read_text().split() != list(pinned):
        print(f"making {folder} with {', '.join(pinned)}", flush=True)
        commands = [
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
                sys.exit(f"error: {' '.join(command)}\n" + "\n".join(lines[-5:]))
        mark.write_text("\n".join(pinned))
    return python.absolute()
