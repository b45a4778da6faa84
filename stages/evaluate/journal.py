"""Record what an evaluation has finished, so that an interrupted one resumes.

The lines are in .cache/evaluate/<target>/<key>/: generated.jsonl and judged.jsonl. The key covers all that a
sample's completion and verdict depend on; lines of another key are never read. The folder is removed after
the evaluation.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.common.core.files import remove
from stages.evaluate.completion import Completion
from stages.judge.verdict import FirstRun, Verdict

JOURNAL_FOLDER = Path(".cache/evaluate")
CODE_ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = (
    "evaluate",
    "judge",
    "common",
)  # of stages/: all code that completions and verdicts depend on
LOCK_FILE = Path("requirements.lock")
SampleKey = tuple[str, int]  # task_id, sample number


class Journal:
    """Completions and verdicts by sample: read on opening, appended to as they are made."""

    def __init__(self, target: str, key: str, folder: Path = JOURNAL_FOLDER) -> None:
        self.folder = folder / target / key
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                remove(other)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.completions = {sample: Completion(**row) for sample, row in self.read("generated.jsonl")}
        self.verdicts = {sample: verdict_of(row) for sample, row in self.read("judged.jsonl")}

    def read(self, name: str) -> Iterable[tuple[SampleKey, dict[str, Any]]]:
        """Yield complete lines. A killed run may leave a cut last line, which is removed."""
        path = self.folder / name
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            path.write_bytes(whole)
        for line in whole.splitlines():
            row = json.loads(line)
            yield (row.pop("task_id"), row.pop("sample")), row

    def completed(self, sample: SampleKey, completion: Completion) -> None:
        self.completions[sample] = completion
        self.append("generated.jsonl", sample, asdict(completion))

    def judged(self, sample: SampleKey, verdict: Verdict) -> None:
        self.verdicts[sample] = verdict
        self.append("judged.jsonl", sample, asdict(verdict))

    def append(self, name: str, sample: SampleKey, row: dict[str, Any]) -> None:
        line = json.dumps({"task_id": sample[0], "sample": sample[1], **row})
        with (self.folder / name).open("a", encoding="ascii") as file:
            file.write(line + "\n")

    def close(self) -> None:
        """Remove the journal after the evaluation."""
        remove(self.folder.parent)


def verdict_of(row: dict[str, Any]) -> Verdict:
    first = row.pop("first_run")
    return Verdict(**row, first_run=first and FirstRun(**first))


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
