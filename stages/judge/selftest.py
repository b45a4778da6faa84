"""Check the judge before it scores: canonical solutions pass, and no probe escapes or cheats."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.common.core.errors import UserError
from stages.common.rows.schema import Problem
from stages.judge.pool import Pool
from stages.judge.verdict import Submission, Verdict

PROBE_TEST = "def check(candidate):\n    assert candidate() == 1\n"
ESCAPE_PROGRAM = """
def probe():
    try:
        {body}
    except Exception:
        return 0
    return 0
"""

# name: the body of a function that returns 1 if it got what the sandbox must deny
ESCAPES = {
    "network": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); return 1",
    "unix socket": "import socket; socket.socketpair(); return 1",
    "reads /etc": "return 1 if open('/etc/passwd').read() else 0",
    "reads a home": "import os; return 1 if os.listdir('/root') or os.listdir('/home') else 0",
    "lists processes": "import os; return 1 if os.listdir('/proc') else 0",
    "environment": "import os; return 1 if os.environ or open('/proc/1/environ').read() else 0",
    "writes outside": "open('/var/tmp/.judge-probe', 'w').close(); import os; os.unlink('/var/tmp/.judge-probe'); return 1",
    "writes to the library": "import os; open(os.__file__[:-5] + '.judge-probe', 'w').close(); os.unlink(os.__file__[:-5] + '.judge-probe'); return 1",
    "forks": "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0); return 1",
    "starts a program": "import subprocess, sys; subprocess.run([sys.executable, '-c', '']); return 1",
    "signals its supervisor": "import os; os.kill(os.getppid(), 0); return 1",
    "raises a limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6)); return 1",
    "memory": "x = bytearray(1 << 40); return 1",
}
CHEATS = {
    "equal to everything": "class A:\n    def __eq__(self, other): return True\n\ndef probe(): return A()\n",
    "an int that equals everything": "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n\ndef probe(): return A(2)\n",
    "sys.exit": "import sys\n\ndef probe(): sys.exit(0)\n",
    "os._exit": "import os\n\ndef probe(): os._exit(0)\n",
    "exit while loading": "import os\n\nclass A:\n    os._exit(0)\n\ndef probe(): return A\n",
}


@dataclass(frozen=True)
class SelfTest:
    """Counts of canonical solutions and probes, as the metrics hold them."""

    canonical_passed: int
    canonical: int
    # task_id: verdict and reason
    canonical_failed: dict[str, str] = field(default_factory=dict)
    probes: int = 0
    # Names of probes that passed
    probes_passed: list[str] = field(default_factory=list)
    # task_ids whose test runs in the sandbox, beside the candidate
    weak: list[str] = field(default_factory=list)


def probe_programs() -> dict[str, str]:
    return {name: ESCAPE_PROGRAM.format(body=body) for name, body in ESCAPES.items()} | CHEATS


def self_test_submissions(problems: Sequence[Problem]) -> list[Submission]:
    """Return every probe, then the canonical solution of each problem that has one."""
    programs = probe_programs()
    probes = [Submission(Problem(n, "", "probe", "", PROBE_TEST), text) for n, text in programs.items()]
    return [*probes, *(Submission(p, p.canonical_solution) for p in with_solution(problems))]


def with_solution(problems: Sequence[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.canonical_solution]


def sum_up_self_test(problems: Sequence[Problem], pool: Pool, verdicts: Sequence[Verdict]) -> SelfTest:
    """Return the result of a self-test from the verdicts on its submissions.

    Where answers or arguments cannot be sent (functions), or the test needs more of the candidate than the entry
    point (MBPP/367 builds an object of its class), the canonical solution is judged again, beside its test.

    Raises:
        UserError: a probe passed at a level that must stop it.
    """
    probes = len(probe_programs())
    solved = with_solution(problems)
    found = dict(zip(solved, verdicts[probes:], strict=True))
    weak = [problem for problem, verdict in found.items() if verdict.verdict == "unsupported_value"]
    retried = pool.judge_all([Submission(problem, problem.canonical_solution, True) for problem in weak])
    found |= dict(zip(weak, retried, strict=True))
    failed = {p.task_id: f"{v.verdict}: {v.reason}" for p, v in found.items() if v.verdict != "passed"}
    return SelfTest(
        canonical_passed=len(solved) - len(failed),
        canonical=len(solved),
        canonical_failed=failed,
        probes=probes,
        probes_passed=check_probes(pool, verdicts[:probes]),
        weak=[problem.task_id for problem in weak],
    )


def run_probes(pool: Pool) -> list[str]:
    """Return the names of probes that passed: at level C most escapes do.

    Raises:
        UserError: a cheat passed, or an escape at level A or B.
    """
    return check_probes(pool, pool.judge_all(self_test_submissions([])))


def check_probes(pool: Pool, verdicts: Sequence[Verdict]) -> list[str]:
    passed = [n for n, v in zip(probe_programs(), verdicts, strict=True) if v.verdict == "passed"]
    escaped = [name for name in passed if pool.isolation.level != "C" or name in CHEATS]
    if escaped:
        raise UserError(
            f"the sandbox at level {pool.isolation.level} does not stop: {', '.join(escaped)}. "
            "No score made in it would mean anything. Choose another level with evaluate.isolation."
        )
    return passed
