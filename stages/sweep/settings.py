"""Settings of sweeps."""

import re
from dataclasses import dataclass

from stages.common.settings import require


@dataclass
class SweepSettings:
    name: str = ""  # of .cache/sweep/<name> and reports/sweeps/<name>; letters, digits, . _ -; empty: commit and a hash
    objective: str = (
        "reports/evaluate/tuned.json:pass_at_1"  # what a point returns: metrics file, colon, dotted key
    )

    direction: str = "maximize"  # maximize | minimize: which end of the objective is the better one
    at_once: int = (
        0  # points at the same time on one machine; 0: what the launcher starts, at most one a GPU or core
    )
    trial: int = -1  # set by hydra/sweeper=tpe: which trial of its study a point is

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"(\w[\w.-]*)?", self.name) is not None and self.name not in ("hydra", "places"),
            "sweep.name",
            self.name,
            "letters, digits, '.', '_' and '-', or nothing; not 'hydra' or 'places'",
        )
        require(
            re.fullmatch(r"[^:]+:[^:]+", self.objective) is not None,
            "sweep.objective",
            self.objective,
            "a metrics file, a colon and a dotted key, as reports/train.json:validation_loss",
        )
        require(
            self.direction in ("maximize", "minimize"),
            "sweep.direction",
            self.direction,
            "maximize or minimize",
        )
        require(self.at_once >= 0, "sweep.at_once", self.at_once, "at least 0")
