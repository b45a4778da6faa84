"""Settings of the judge: the sandbox, its limits, and how many samples are judged at once."""

from dataclasses import dataclass, field

from stages.common.core.settings import require

ISOLATION_CHOICES = ("auto", "A", "B", "C")
FENCE_CHOICES = ("last", "first")


@dataclass
class JudgeSettings:
    """The judge's part of the section `evaluate`."""

    # Of sampling, and of `random` in test programs
    seed: int = 0
    # CPU time a sample may use; decides the verdict. Wall time: ten times that
    cpu_seconds: float = 3.0
    # Address space a sample may use, MiB
    memory_mib: int = 1024
    # Judges at once; 0: one per core
    workers: int = 0
    # auto: the highest level this machine supports | A | B | C (docs/evaluate.md)
    isolation: str = "auto"
    # Which of several code fences with the function is judged: last (the last complete one) | first
    fence: str = "last"
    # Installed packages that generated code may import; mounted read-only, with what they require
    packages: list[str] = field(default_factory=list)
    # Judge at level C (resource limits only) where no higher level is available
    allow_weak_sandbox: bool = False

    def __post_init__(self) -> None:
        require(self.cpu_seconds > 0, "evaluate.cpu_seconds", self.cpu_seconds, "seconds above 0")
        require(self.memory_mib >= 128, "evaluate.memory_mib", self.memory_mib, "at least 128 MiB")
        require(self.workers >= 0, "evaluate.workers", self.workers, "0 (one per core) or more")
        require(
            self.fence in FENCE_CHOICES, "evaluate.fence", self.fence, "one of " + ", ".join(FENCE_CHOICES)
        )
        choices = "one of " + ", ".join(ISOLATION_CHOICES)
        require(self.isolation in ISOLATION_CHOICES, "evaluate.isolation", self.isolation, choices)
