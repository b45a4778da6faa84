"""Settings of sweeps."""

from dataclasses import dataclass


@dataclass
class SweepSettings:
    objective: str = "pass_at_1"  # key of reports/evaluate/tuned.json that a point returns
