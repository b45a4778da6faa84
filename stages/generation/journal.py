"""What an evaluation's samples depend on: an interrupted one resumes where none of it has changed."""

import hashlib
import json
from pathlib import Path
from typing import Any

JOURNAL_FOLDER = Path(".cache/evaluate")
CODE_ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = (
    "evaluate",
    "generation",
    "judge",
    "common",
)  # of stages/: all code that completions and verdicts depend on
LOCK_FILE = Path("requirements.lock")


def journal_key(model: Path, facts: Any) -> str:
    """Return a key of a model folder, other facts (JSON types), our code and the library versions."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    code = [path for folder in CODE_FOLDERS for path in (CODE_ROOT / folder).rglob("*.py")]
    for path in [*sorted(code), *sorted(p for p in model.rglob("*") if p.is_file()), LOCK_FILE]:
        digest.update(f"\0{path.name}\0".encode())
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
