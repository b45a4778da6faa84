"""Settings of the judge: the sandbox, its limits, how many samples are judged at once."""

from dataclasses import dataclass

from stages.common.settings import require

ISOLATION = ("auto", "A", "B", "C")


@dataclass
class JudgeSettings:
    """Part of the section `evaluate`."""

    seed: int = 0  # of sampling, and of `random` in test programs
    cpu_seconds: float = 3.0  # CPU time a sample may use; the verdict's limit. Wall time: ten times that
    memory_mib: int = 1024  # address space a sample may use, MiB
    workers: int = 0  # judges at once; 0: one per core
    isolation: str = "auto"  # auto: the highest level this machine gives | A | B | C (docs/evaluate.md)
    allow_weak_sandbox: bool = False  # judge at level C (resource limits only) where nothing better is there

    def __post_init__(self) -> None:
        require(self.cpu_seconds > 0, "evaluate.cpu_seconds", self.cpu_seconds, "seconds above 0")
        require(self.memory_mib >= 128, "evaluate.memory_mib", self.memory_mib, "at least 128 MiB")
        require(self.workers >= 0, "evaluate.workers", self.workers, "0 (one per core) or more")
        require(
            self.isolation in ISOLATION,
            "evaluate.isolation",
            self.isolation,
            "one of " + ", ".join(ISOLATION),
        )
