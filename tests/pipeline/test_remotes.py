"""DVC's remotes as docs/versions.md tells of them: pushed, failed in the middle, pushed again, pulled elsewhere.

What DVC and its drivers do is tested on a small repository: a folder of data, and one stage that was run twice.
"""

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.helpers.dvc_remotes import REMOTES, ROOM, SECRET, Folder, Remote
from tests.helpers.tiny_project import REPOSITORY, Done, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

MAKE = """\
import pathlib, yaml
n = yaml.safe_load(open("params.yaml"))["n"]
print("MADE")
out = pathlib.Path("out")
out.mkdir()
for i in range(3):
    (out / f"{i}.txt").write_text(f"{n} {i}\\n" * 100)
"""
STAGE = {"cmd": "python make.py", "deps": ["make.py", "data"], "params": ["n"], "outs": ["out"]}
LARGE = ROOM * 3 // 2  # bytes of the file that there is no room for
FINAL = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30})(\.dir)?")
RECORD = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")
EVERYTHING = ("push", "--all-tags", "--run-cache")


@pytest.fixture(scope="module")
def source(warm_python: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two versions, tagged; the second is checked out, and its result there. Copy it, do not write to it."""
    project = Project(tmp_path_factory.mktemp("remotes") / "source")
    (project.root / "data").mkdir(parents=True)
    for i in range(6):
        (project.root / f"data/{i}.txt").write_text(f"row {i}\n" * 50, "utf-8")
    (project.root / "data/large.bin").write_bytes(random.Random(0).randbytes(LARGE))
    (project.root / "make.py").write_text(MAKE, "utf-8")
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": STAGE}}), "utf-8")
    project.git("init", "-q", "-b", "main")
    for key, value in (("user.name", "Tiny"), ("user.email", "tiny@example.org")):
        project.git("config", key, value)
    project.dvc("init", "-q")
    project.dvc("add", "-q", "data")
    for version in (1, 2):
        (project.root / "params.yaml").write_text(f"n: {version}\n", "utf-8")
        project.dvc("repro", "-q")
        project.commit(f"version {version}")
        project.git("tag", f"v{version}")
    return project


@dataclass
class Walk:
    """What was done with one remote, in this order."""

    remote: Remote
    project: Project
    broken: Done  # a push that met the failure
    left: dict[str, bytes]  # what lay at the remote after it
    pushed: Done
    there: dict[str, bytes]
    again: Done
    refused: Done  # a clone without credentials
    pulled: Done
    clone: Project
    files: dict[str, str]  # of the clone, pulled
    nothing: Done  # its `dvc repro`
    restored: Done  # and one with the first version's settings
    first: str  # which then made this


@pytest.fixture(scope="module", params=list(REMOTES))
def walk(
    request: pytest.FixtureRequest, source: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    place = tmp_path_factory.mktemp(request.param)
    with REMOTES[request.param](place) as remote:
        yield walked(remote, source, place)


def walked(remote: Remote, source: Project, place: Path) -> Walk:
    def dvc(project: Project, *arguments: str) -> Done:
        return project.run(*remote.command(*arguments), env=remote.env)

    project = source.copy(place / "project")
    project.dvc("remote", "add", "-d", "store", remote.url)
    for option, value in remote.options.items():
        project.dvc("remote", "modify", "store", option, value)
    credentials(project, remote)
    project.commit("Where data is kept")
    for version in ("v1", "v2"):  # a version knows the remote that its own configuration names
        project.git("checkout", "-q", version)
        project.git("checkout", "-q", "main", ".dvc/config")
        project.commit("Where data is kept")
        project.git("tag", "-f", version)
    remote.fail()
    broken = dvc(project, *EVERYTHING)
    left = remote.files()
    remote.mend()
    pushed, there, again = dvc(project, *EVERYTHING), remote.files(), dvc(project, *EVERYTHING)

    clone = Project(place / "clone")
    subprocess.run(["git", "clone", "-q", str(project.root), str(clone.root)], check=True)
    refused = dvc(clone, "pull")
    credentials(clone, remote)
    pulled, files, nothing = (
        dvc(clone, "pull", "--run-cache"),
        clone.files("data", "out"),
        dvc(clone, "repro"),
    )
    (clone.root / "params.yaml").write_text("n: 1\n", "utf-8")
    restored = dvc(clone, "repro", "--pull")
    first = (clone.root / "out/0.txt").read_text("utf-8")
    return Walk(remote, project, broken, left, pushed, there, again, refused, pulled, clone, files, nothing, restored, first)  # fmt: skip


def credentials(project: Project, remote: Remote) -> None:
    for option, value in remote.credentials.items():
        project.dvc("remote", "modify", "--local", "store", option, value)


def whole(files: dict[str, bytes]) -> tuple[int, int]:
    """How many objects and records of runs lie there; each must hold what its name says."""
    objects = [(found, data) for name, data in files.items() if (found := FINAL.fullmatch(name))]
    for found, data in objects:
        assert hashlib.md5(data).hexdigest() == found[1] + found[2], f"{found[0]} is corrupted"
    records = [data for name, data in files.items() if RECORD.fullmatch(name)]
    for data in records:
        assert yaml.safe_load(data)["outs"][0]["path"] == "out"
    return len(objects), len(records)


OBJECTS = 1 + 7 + 2 * (1 + 3)  # the folder of data and its files, two results of the stage


def test_a_push_that_fails_in_the_middle_says_so_and_corrupts_nothing(walk: Walk) -> None:
    assert walk.broken.status != 0
    # Where the connection died while a folder was still to be begun, DVC stops at that
    said = r"ERROR: (failed to push data to the cloud - \d+ files? failed|unexpected error - Connection not open)"
    assert re.search(said, walk.broken.err), walk.broken.err
    objects, records = whole(walk.left)
    assert records == 2
    assert objects < OBJECTS
    assert len(walk.left) > records, "in the middle: of the data, something or a part of it was sent"


def test_the_same_push_again_completes(walk: Walk) -> None:
    assert walk.pushed.status == 0, walk.pushed.text
    assert whole(walk.there) == (OBJECTS, 2)
    sent = OBJECTS - whole(walk.left)[0]
    assert f"{sent + 2} files pushed" in walk.pushed.out, "what was there was not sent twice, but the records"
    assert walk.again.status == 0
    assert "2 files pushed" in walk.again.out


def test_a_clone_has_every_byte_and_runs_nothing(walk: Walk) -> None:
    assert walk.pulled.status == 0, walk.pulled.text
    assert walk.files == walk.project.files("data", "out")
    assert len(walk.files) == 10
    assert "Data and pipelines are up to date." in walk.nothing.out


def test_the_run_cache_came_too(walk: Walk) -> None:
    """The clone has checked out version 2, and gets the result of version 1's settings without a run."""
    assert "Stage 'make' is cached - skipping run" in walk.restored.out, walk.restored.text
    assert "MADE" not in walk.restored.text
    assert walk.first == "1 0\n" * 100


def test_credentials_stay_out_of_git_and_are_asked_for(walk: Walk) -> None:
    if not walk.remote.credentials:
        assert walk.refused.status == 0, "a folder asks for none"
        return
    assert walk.refused.status != 0
    assert re.search("denied|forbidden|credentials", walk.refused.err, re.IGNORECASE), walk.refused.err
    for value in walk.remote.credentials.values():
        assert value in (walk.project.root / ".dvc/config.local").read_text("utf-8")
        assert walk.project.run("git", "grep", "-qF", value, "main", "v1", "v2").status == 1
    check = [sys.executable, str(REPOSITORY / ".ci/credentials.py"), str(walk.project.root)]
    assert walk.project.run(*check).status == 0


def test_a_secret_of_s3_in_the_shared_configuration_is_refused(source: Project, tmp_path: Path) -> None:
    project = source.copy(tmp_path / "project")
    project.dvc("remote", "add", "store", "s3://bucket/store")
    project.dvc("remote", "modify", "store", "secret_access_key", SECRET)
    done = project.run(sys.executable, str(REPOSITORY / ".ci/credentials.py"), str(project.root))
    assert done.status == 1
    assert '.dvc/config:3: secret_access_key of [remote "store"]' in done.err
    assert SECRET not in done.text


def test_a_record_that_cannot_be_sent_is_said_but_no_failure(source: Project, tmp_path: Path) -> None:
    """DVC's own: its status tells of the data alone, which docs/versions.md says."""
    project = source.copy(tmp_path / "project")
    store = tmp_path / "store"
    store.mkdir()
    (store / "runs").touch()  # in the way
    project.dvc("remote", "add", "-d", "store", str(store))
    told = project.dvc(*EVERYTHING)
    assert told.err.count("ERROR: failed to transfer") == 2
    (store / "runs").unlink()
    project.dvc(*EVERYTHING)
    assert whole(Folder("", tmp_path).files())[1] == 2


def test_what_went_bad_at_the_remote_is_not_taken_with_verify(source: Project, tmp_path: Path) -> None:
    project = source.copy(tmp_path / "project")
    project.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    project.dvc("remote", "modify", "store", "verify", "true")
    project.dvc("push", "-q")
    digest = hashlib.md5((project.root / "data/large.bin").read_bytes()).hexdigest()
    bad = tmp_path / "store/files/md5" / digest[:2] / digest[2:]
    bad.chmod(0o644)
    bad.write_bytes(b"bad")
    project.run("rm", "-rf", ".dvc/cache", "data", check=True)
    pulled = project.run(sys.executable, "-m", "dvc", "pull")
    assert pulled.status != 0
    assert "data" in pulled.err
    assert not (project.root / "data/large.bin").exists()


def test_a_result_of_no_version_does_not_travel(source: Project, tmp_path: Path) -> None:
    project = source.copy(tmp_path / "project")
    project.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    project.commit("Where data is kept")
    project.dvc("push", "-q", "--run-cache")
    clone = Project(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", str(project.root), str(clone.root)], check=True)
    clone.dvc("pull", "-q", "--run-cache")
    (clone.root / "params.yaml").write_text("n: 1\n", "utf-8")
    told = clone.dvc("repro", "--pull").out
    assert "MADE" in told, (
        "the record of version 1's run came, its result belongs to no version that was pushed"
    )
