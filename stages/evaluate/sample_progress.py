"""Show the progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from typing import Any


class SampleProgress:
    """Call with the number done and the total; without a terminal it prints at most every `seconds`."""

    def __init__(self, what: str, seconds: float = 20.0) -> None:
        self.what, self.seconds = what, seconds
        self.last = time.monotonic()
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                self.bar = tqdm(total=total, desc=self.what, leave=False)
            self.bar.update(done - self.bar.n)
        elif done == total or time.monotonic() - self.last >= self.seconds:
            self.last = time.monotonic()
            print(f"{self.what}: {done} of {total}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
