"""What becomes of a sample that is judged."""

from dataclasses import dataclass

WEAK = "weak: "  # begins the reason where the test ran with the candidate


VERDICTS = (
    *("passed", "wrong_answer", "exception", "syntax_error", "no_entry_point", "cpu_timeout", "wall_timeout"),
    *("out_of_memory", "signal", "reply_too_large", "unsupported_value", "harness_error"),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a sample. Times are of the candidate's process; they vary, the words do not."""

    verdict: str
    reason: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    first_run: "FirstRun | None" = None  # where this is a second run, alone


@dataclass(frozen=True)
class FirstRun:
    """What became of a sample that ran out of time beside others."""

    verdict: str
    cpu_s: float
    wall_s: float
