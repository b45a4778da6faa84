"""Settings of sweeps."""

import re
from dataclasses import dataclass

from stages.common.sections import require


@dataclass
class SweepSettings:
    name: str = ""  # folder below .cache/sweep for logs; letters, digits, . _ -; empty: commit and a hash
    objective: str = (
        "reports/evaluate/tuned.json:pass_at_1"  # what a point returns: metrics file, colon, dotted key
    )

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"(\w[\w.-]*)?", self.name) is not None,
            "sweep.name",
            self.name,
            "letters, digits, '.', '_' and '-', or nothing",
        )
        require(
            re.fullmatch(r"[^:]+:[^:]+", self.objective) is not None,
            "sweep.objective",
            self.objective,
            "a metrics file, a colon and a dotted key, as reports/train.json:validation_loss",
        )
