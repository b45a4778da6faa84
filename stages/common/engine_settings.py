"""Settings of the engine that runs the data stages; it changes how fast they run, never what they write."""

from dataclasses import dataclass

from stages.common.sections import require

KINDS = ("native", "ray")


@dataclass
class EngineSettings:
    kind: str = "native"  # native: processes of this machine | ray: a Ray cluster
    workers: int = 0  # native: processes at once, 0: one per core
    address: str = ""  # ray: host:port of the head; empty: a cluster of this machine alone, made for the run

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "engine.kind", self.kind, "one of " + ", ".join(KINDS))
        require(self.workers >= 0, "engine.workers", self.workers, "0 or more")
