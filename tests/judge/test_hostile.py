"""Hostile completions at levels A and B: none passes, the next honest sample does, and none leaves a trace."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.judge.sandbox import candidate, kernel, values
from stages.judge.sandbox.levels import detect
from stages.judge.verdict import VERDICTS
from tests.helpers.judge_process import JudgeProcess
from tests.helpers.judge_samples import (
    HOSTILE,
    LIMITS,
    SUM,
    descendants,
    expected_verdicts,
    hostile_text,
    needs_bwrap,
    wait_for,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ONCE = replace(SUM, test="def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n")

# Programs that escape at level C, as any user, and do no harm there: so it is the sandbox that stops them
# above, not a mistake of their own. The others need root, or end what they run in, or are stopped by a limit
# that level C has too.
ESCAPES_AT_C = (
    *(
        "affinity",
        "chmod",
        "climbs_out",
        "devices",
        "exec_from_memory",
        "fifo",
        "filter_of_its_own",
        "hard_link",
    ),
    *(
        "memory_file",
        "memory_pipes_large",
        "message_queue",
        "network_families",
        "network_listens",
        "network_netlink",
    ),
    *("network_raw_call", "network_tcp", "network_udp6", "network_unix", "network_unix_path", "new_dumpable"),
    *("priority", "raises_supervisors_limit", "reads_others_environment", "reads_own_memory", "reads_passwd"),
    *("reads_proc", "reads_system", "rename_out", "setuid_copy", "shared_memory", "shared_memory_sysv"),
    *("signal_owner", "signals_by_descriptor", "socketpair", "symlink", "timer_thread", "watches_files"),
)
# Programs that escape only as root, which ignores limits on processes and locked memory and owns the
# interpreter's files
ESCAPES_AT_C_AS_ROOT = (
    *(
        "becomes_root",
        "fork",
        "memory_locked",
        "processes",
        "sets_times",
        "setuid_program",
        "subprocess",
    ),
    "truncates",
)


@pytest.fixture(scope="module", autouse=True)
def private_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of this process: other programs of the machine write to the common one."""
    folder = tmp_path_factory.mktemp("temporary")
    kernel.adopt_orphans()  # a process that left its parents is found here too
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))  # of the judges' processes
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    kernel.libc().prctl(kernel.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def nothing_new_in_the_repository() -> Iterator[None]:
    before = files_of_the_repository()
    yield
    assert files_of_the_repository() == before


def files_of_the_repository() -> set[Path]:
    folders = [ROOT / name for name in ("benchmarks", "conf", "docs", "stages", "tests")]
    inside = {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return inside | {path for path in ROOT.iterdir() if not path.name.startswith(".")}


def judges(level: str) -> Iterator[dict[bool, JudgeProcess]]:
    """Yield a judge for what ends at a limit of time, and a patient one: no other verdict depends on speed."""
    both = {
        endless: JudgeProcess(detect(level), limits)
        for endless, limits in {True: LIMITS, False: replace(LIMITS, cpu_seconds=10.0)}.items()
    }
    for judge in both.values():
        assert judge.judge(SUM, SUM.canonical_solution).verdict == "passed"
    yield both
    for judge in both.values():
        judge.close()


@pytest.fixture(scope="module")
def judges_a() -> Iterator[dict[bool, JudgeProcess]]:
    yield from judges("A")


@pytest.fixture(scope="module")
def judges_b() -> Iterator[dict[bool, JudgeProcess]]:
    yield from judges("B")


@pytest.fixture(scope="module")
def judge_c() -> Iterator[JudgeProcess]:
    judge = JudgeProcess(detect("C"), replace(LIMITS, cpu_seconds=10.0))
    yield judge
    judge.close()


# Files in the temporary folder that belong to a browser or server of another worker's tests
OF_OTHERS = re.compile(r"playwright|postgres-|\.?org\.chromium|\.?com\.google")


def traces(text: str) -> dict[str, Any]:
    """Return what shows that something is left: processes, descriptors, sockets, files that the text names."""
    processes = [pid for pid in descendants(os.getpid()) if state(pid) != "Z"]
    named = re.findall(r"['\"](/(?:tmp|var/tmp|dev/shm)/[\w.-]+|hostile-[\w-]+)['\"]", text)
    return {
        "processes": len(processes),
        "descriptors": Counter(kind for pid in [os.getpid(), *processes] for kind in descriptors(pid)),
        "sockets": [name for pid in processes for name in open_to_others(pid)],
        "files": [name for name in named if (Path("/") / name).exists() or (Path("/tmp") / name).exists()],
        "temporary": [p for p in Path(tempfile.gettempdir()).iterdir() if not OF_OTHERS.match(p.name)],
        "working directory": sorted(Path.cwd().glob("hostile-*")),
    }


def left(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return what there is more of than before. What is gone (a socket of an earlier test, closed late) is not a trace."""
    more = {
        name: Counter(value) - Counter(before[name]) for name, value in after.items() if name != "processes"
    }
    grown = max(0, after["processes"] - before["processes"])
    return {name: found for name, found in {**more, "processes": grown}.items() if found}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def descriptors(pid: int) -> list[str]:
    """Return the target of each descriptor of a process, with its numbers masked."""
    return [re.sub(r"\d+", "N", text) for text in links(pid)]


def links(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(PermissionError):  # root may not see a process that bubblewrap made
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(link))
    return found


def open_to_others(pid: int) -> list[str]:
    """Return the sockets of a process that have a name or listen, as its network namespace lists them."""
    inodes = {link[8:-1] for link in links(pid) if link.startswith("socket:[")}
    unix = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6")]
    internet = [
        line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]
    ]
    return [row[7] for row in unix if len(row) > 7 and row[6] in inodes] + [
        row[1] for row in internet if row[9] in inodes
    ]


def hostile_case(judges: dict[bool, JudgeProcess], path: Path) -> None:
    """Check that it fails as its file says, that an honest sample then passes, and that nothing is left."""
    text, expected = hostile_text(path), expected_verdicts(path)
    judge = judges[any("timeout" in verdict for verdict in expected)]
    before = traces(text)  # after an honest sample
    verdict = judge.judge(SUM, text, sleeps="wall_timeout" in expected)
    assert verdict.verdict in expected, verdict
    assert judge.judge(SUM, SUM.canonical_solution).verdict == "passed"
    assert wait_for(lambda: not left(traces(text), before)), left(traces(text), before)


@needs_bwrap
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_completion_does_not_pass(judges_a: dict[bool, JudgeProcess], path: Path) -> None:
    hostile_case(judges_a, path)


if kernel.landlock_version():  # a kernel without it has no level B

    @pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
    def test_hostile_completion_does_not_pass_without_namespaces(
        judges_b: dict[bool, JudgeProcess], path: Path
    ) -> None:
        hostile_case(judges_b, path)


@pytest.mark.parametrize("name", [*ESCAPES_AT_C, *ESCAPES_AT_C_AS_ROOT])
def test_escape_is_live(judge_c: JudgeProcess, name: str) -> None:
    """It escapes where only resource limits hold it, so that its failure above is the sandbox's work."""
    if name in ESCAPES_AT_C_AS_ROOT and os.getuid():
        pytest.skip("a resource limit stops it where the judge is not root")
    text = hostile_text(ROOT / "tests" / "hostile" / f"{name}.py")
    verdict = judge_c.judge(ONCE, text)
    assert verdict.verdict == "passed", verdict


def test_traces_show_what_is_left() -> None:
    """The search for traces finds each kind."""
    before = traces("")
    code = "import socket, tempfile; tempfile.mkdtemp(dir='.'); s = socket.create_server(('127.0.0.1', 0)); "
    code += "u = socket.socket(socket.AF_UNIX); u.bind('\\0hostile'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tempfile.gettempdir(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        after = traces("open('/tmp')")
        process.communicate(b"\n")
    assert after["processes"] == before["processes"] + 1
    assert "@hostile" in after["sockets"]
    assert len(after["sockets"]) == 2
    assert len(after["temporary"]) == len(before["temporary"]) + 1
    assert after["descriptors"] > before["descriptors"]
    assert set(left(after, before)) >= {"processes", "sockets", "temporary", "descriptors"}
    assert left(before, before) == {}


@pytest.mark.parametrize(
    ("name", "module", "attribute"),
    [("finds_the_supervisor", candidate, "send_message"), ("patches_supervisor", values, "encode_value")],
)
def test_programs_that_look_for_our_code_look_for_names_it_has(
    name: str, module: Any, attribute: str
) -> None:
    assert f'"{attribute}"' in hostile_text(ROOT / "tests" / "hostile" / f"{name}.py")
    assert hasattr(module, attribute)


def test_the_hostile_suite_is_complete_and_states_its_verdicts() -> None:
    assert len(HOSTILE) >= 150
    for path in HOSTILE:
        assert hostile_text(path).startswith("# tries: "), path
        assert expected_verdicts(path) <= set(VERDICTS) - {"passed", "harness_error"}, path
