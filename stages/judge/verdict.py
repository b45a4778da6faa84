"""The verdict on a judged sample."""

from dataclasses import dataclass

WEAK_PREFIX = "weak: "  # starts the reason where the test ran in the sandbox, beside the candidate

VERDICTS = (
    *("passed", "wrong_answer", "exception", "syntax_error", "no_entry_point", "cpu_timeout", "wall_timeout"),
    *("out_of_memory", "signal", "reply_too_large", "unsupported_value", "unsupported", "harness_error"),
)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a sample, one of VERDICTS, with its reason.

    Times are those of the candidate's process. They vary from run to run; verdict and reason do not.
    """

    verdict: str
    reason: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    # Set where this is the second run, alone, of a sample that timed out
    first_run: "FirstRun | None" = None


@dataclass(frozen=True)
class FirstRun:
    """The outcome of a sample that timed out while others ran beside it."""

    verdict: str
    cpu_s: float
    wall_s: float
