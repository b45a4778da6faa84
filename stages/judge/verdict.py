"""A sample to judge, and the verdict on it."""

from dataclasses import dataclass

from stages.common.rows.schema import Problem

WEAK_PREFIX = "weak: "  # starts the reason where the test ran in the sandbox, beside the candidate

VERDICTS = (
    *("passed", "wrong_answer", "exception", "syntax_error", "no_entry_point", "cpu_timeout", "wall_timeout"),
    *("out_of_memory", "signal", "reply_too_large", "unsupported_value", "unsupported", "harness_error"),
)


@dataclass(frozen=True)
class Submission:
    """A completion of a problem, to be judged."""

    problem: Problem
    completion: str
    # Run the test in the sandbox, beside the candidate: it needs more of the candidate than the entry point
    test_in_sandbox: bool = False
    # Which of several fences counts, first or last
    fence: str = "last"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a sample, one of VERDICTS, with its reason.

    Times are those of the candidate's process. They vary from run to run; verdict and reason do not.
    """

    verdict: str
    reason: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
