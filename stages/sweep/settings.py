"""Settings of sweeps."""

import re
from dataclasses import dataclass

from stages.common.core.settings import require


@dataclass
class SweepSettings:
    # Of .cache/sweep/<name> and reports/sweeps/<name>: letters, digits, . _ -; empty: the swept keys and a hash
    name: str = ""
    # What a point returns: metrics file, colon, dotted key
    objective: str = "reports/evaluate/tuned.json:pass_at_1"
    # maximize | minimize: which objective is better
    direction: str = "maximize"
    # Points that run on one machine at the same time; 0: as many as the launcher starts, at most one per GPU or
    # core
    at_once: int = 0

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"(\w[\w.-]*)?", self.name) is not None and self.name not in ("hydra", "slots"),
            "sweep.name",
            self.name,
            "letters, digits, '.', '_' and '-', or nothing; not 'hydra' or 'slots'",
        )
        require(
            re.fullmatch(r"[^:]+:[^:]+", self.objective) is not None,
            "sweep.objective",
            self.objective,
            "a metrics file, a colon and a dotted key, such as reports/train.json:validation_loss_kept",
        )
        require(
            self.direction in ("maximize", "minimize"),
            "sweep.direction",
            self.direction,
            "maximize or minimize",
        )
        require(self.at_once >= 0, "sweep.at_once", self.at_once, "at least 0")
