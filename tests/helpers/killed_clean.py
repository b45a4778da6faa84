"""The command of clean that kills itself: `python -m tests.helpers.killed_clean POINT OVERRIDE...`.

A point is `map` (after the fourth result of its worker processes, whose ids are then in the file `workers`) or
`rename` (when data/clean is about to be replaced).
"""

import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.common.engine import ProcessEngine
from tests.helpers.judge_samples import descendants


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_map() -> None:
    original = ProcessEngine.map

    def map_until(self: Any, function: Any, tasks: Any) -> Iterator[Any]:
        for number, result in enumerate(original(self, function, tasks)):
            if number == 3:
                Path("workers").write_text(" ".join(map(str, descendants(os.getpid()))))
                die()
            yield result

    ProcessEngine.map = map_until  # type: ignore[method-assign]


def die_at_the_rename() -> None:
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(source) == Path("data/clean"):
            die()
        original(source, target)

    os.rename = rename  # type: ignore[assignment]


if __name__ == "__main__":
    {"map": die_in_the_map, "rename": die_at_the_rename}[sys.argv.pop(1)]()
    runpy.run_module("stages.clean", run_name="__main__", alter_sys=True)
