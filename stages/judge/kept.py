"""Keep the results of long work as they come, so that the same command resumes an interrupted one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages.common.core.errors import UserError

T = TypeVar("T")


class KeptResults(Generic[T]):
    """Results (dataclasses of one kind) by key, in a file: a digest of what they depend on, then a line each.

    Those of other work, or of a line that a kill cut, do not count.
    """

    def __init__(self, path: Path, depends_on: str, kind: type[T]) -> None:
        self.path, self.results = path, dict[tuple[Any, ...], T]()
        head = depends_on.encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = path.read_bytes() if path.exists() else b""
            whole = kept[: kept.rfind(b"\n") + 1] if kept.startswith(head) else head
            path.write_bytes(whole)
            self.file = path.open("ab")
        except OSError as error:
            raise UserError(f"cannot write {path}, where results are kept: {error.strerror}") from None
        for line in whole.splitlines()[1:]:
            key, row = json.loads(line)
            self.results[tuple(key)] = kind(**row)

    def keep(self, key: tuple[Any, ...], result: T) -> None:
        self.results[key] = result
        self.file.write(json.dumps([key, asdict(result)]).encode() + b"\n")  # type: ignore[call-overload]
        self.file.flush()

    def close(self) -> None:
        """Remove the file, when the work is done."""
        self.file.close()
        self.path.unlink()
