"""Remotes of DVC on this machine that can be made to fail in the middle of a push: a folder, S3 (moto), SSH (sshd)."""

import os
import pwd
import re
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.fork_server import free_port
from tests.helpers.tiny_project import REPOSITORY

ROOM = 2 * 1024**2  # bytes: a file that is larger does not fit where `full` says so
PUTS = 9  # objects that a full bucket has room for: some of the first push, not all
KEY, SECRET = "AKIACODETUNE", "wJalrXUtnFEMIcodetune"
SFTP = """#!/bin/sh
[ -e {full} ] && exec prlimit --fsize={room} {sftp}
exec {sftp}
"""
SSHD = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp {folder}/sftp
"""


@dataclass
class Remote(ABC):
    """A remote, and what a test does with one."""

    url: str
    folder: Path  # where it keeps its files, or what steers its server
    options: dict[str, str] = field(default_factory=dict)  # of `dvc remote modify`, anyone may see them
    credentials: dict[str, str] = field(default_factory=dict)  # of `dvc remote modify --local`
    env: dict[str, str] = field(default_factory=dict)  # for whoever uses it

    def command(self, *arguments: str) -> list[str]:
        """DVC with these arguments, as it has to be started to meet the failure."""
        return [sys.executable, "-m", "dvc", *arguments]

    @abstractmethod
    def fail(self) -> None:
        """From now on there is no room for all of it."""

    @abstractmethod
    def mend(self) -> None: ...

    def files(self) -> dict[str, bytes]:
        """Content of everything that lies there, by path."""
        found = [path for path in (self.folder / "store").rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder / "store")): path.read_bytes() for path in found}


@dataclass
class Folder(Remote):
    """A folder; a full disk is a limit on the size of a file that the pushing process writes."""

    full: bool = False

    def command(self, *arguments: str) -> list[str]:
        limit = ["prlimit", f"--fsize={ROOM}"] if self.full else []
        return [*limit, *super().command(*arguments)]

    def fail(self) -> None:
        self.full = True

    def mend(self) -> None:
        self.full = False


class S3(Remote):
    """moto; a full bucket answers 507 after some objects."""

    def fail(self) -> None:
        (self.folder / "puts").write_text(str(PUTS), "utf-8")

    def mend(self) -> None:
        (self.folder / "puts").unlink()

    def files(self) -> dict[str, bytes]:
        store = self.filesystem()
        return {name.removeprefix("bucket/store/"): store.cat_file(name) for name in store.find("bucket/store")}  # fmt: skip

    def filesystem(self):  # type: ignore[no-untyped-def]
        from s3fs import S3FileSystem

        return S3FileSystem(
            key=KEY,
            secret=SECRET,
            endpoint_url=self.options["endpointurl"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )


class SSH(Remote):
    """OpenSSH's server; the process that writes dies in the middle of a file that is too large."""

    def fail(self) -> None:
        (self.folder / "full").touch()

    def mend(self) -> None:
        (self.folder / "full").unlink()


@contextmanager
def running(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """A server in a process of its own, ended by its id."""
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def folder_remote(folder: Path) -> Iterator[Remote]:
    yield Folder(str(folder / "store"), folder)


@contextmanager
def s3_remote(folder: Path) -> Iterator[Remote]:
    """A bucket that lets in whoever has the key."""
    with running(sys.executable, "-m", "tests.helpers.s3_server", KEY, str(folder)) as server:
        assert server.stdout is not None
        options = {"endpointurl": f"http://127.0.0.1:{int(server.stdout.readline())}", "region": "us-east-1"}
        credentials = {"access_key_id": KEY, "secret_access_key": SECRET}
        remote = S3("s3://bucket/store", folder, options, credentials, {"AWS_EC2_METADATA_DISABLED": "true"})
        remote.filesystem().mkdir("bucket")
        yield remote


@contextmanager
def ssh_remote(folder: Path) -> Iterator[Remote]:
    """A server that lets in whoever has the key file, and is known by its own."""
    if not Path("/usr/sbin/sshd").exists():
        pytest.skip("no sshd: apt-get install openssh-server")
    port = free_port()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized_keys").write_bytes((folder / "key.pub").read_bytes())
    (folder / "sftp").write_text(SFTP.format(full=folder / "full", room=ROOM, sftp=sftp_server()), "utf-8")
    (folder / "sftp").chmod(0o755)
    (folder / "sshd").write_text(SSHD.format(port=port, folder=folder), "utf-8")
    (folder / "home/.ssh").mkdir(parents=True)
    public = " ".join((folder / "host.pub").read_text("utf-8").split()[:2])
    (folder / "home/.ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n", "utf-8")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it shuts itself in
    env = {"HOME": str(folder / "home"), "SSH_AUTH_SOCK": ""}
    user = {"user": pwd.getpwuid(os.getuid()).pw_name}
    with running("/usr/sbin/sshd", "-D", "-e", "-q", "-f", str(folder / "sshd")) as server:
        answers(port, server)
        yield SSH(
            f"ssh://127.0.0.1:{port}{folder}/store", folder, user, {"keyfile": str(folder / "key")}, env
        )


def sftp_server() -> str:
    """Where this system keeps it: `sshd_config` as it comes says so."""
    found = re.search(r"^Subsystem\s+sftp\s+(\S+)", Path("/etc/ssh/sshd_config").read_text("utf-8"), re.MULTILINE)  # fmt: skip
    assert found, "/etc/ssh/sshd_config names no sftp server"
    return found[1]


def answers(port: int, server: "subprocess.Popen[str]") -> None:
    """Wait until the server takes connections."""
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not answer on port {port} (status {server.poll()})")


REMOTES = {"folder": folder_remote, "s3": s3_remote, "ssh": ssh_remote}
