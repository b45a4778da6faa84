"""Real servers, each a process on loopback: `mlflow server` with a password, and PostgreSQL."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fork_server import free_port

USER, PASSWORD = "codetune", "a long secret"
START_SECONDS = 120


def wait_for(process: "subprocess.Popen[bytes]", ready: Callable[[], bool], log: Path) -> None:
    """Wait until `ready`; fail with the end of the log if the process ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while not ready():
        alive = process.poll() is None
        assert alive, log.read_text("utf-8", "replace")[-3000:]
        assert time.monotonic() < end, log.read_text("utf-8", "replace")[-3000:]
        time.sleep(0.05)


class Process(ABC):
    """A server that can die and come back at the same address."""

    command: list[str]
    end = signal.SIGKILL
    environment: dict[str, str] | None = None

    def __init__(self, log: Path) -> None:
        self.log, self.port = log, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def is_ready(self) -> bool: ...

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        wait_for(self._process, self.is_ready, self.log)

    def stop(self) -> None:
        """Kill it and its children at once."""
        if self._process is not None:
            os.killpg(self._process.pid, self.end)
            self._process.wait()
            self._process = None


class MlflowServer(Process):
    """`mlflow server` with a user name and a password, over a sqlite store at `database`."""

    def __init__(self, folder: Path, database: Path) -> None:
        super().__init__(folder / "server.log")
        settings = folder / "auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
            f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
            "auth_cache_ttl_seconds = 600\n"  # without a cache, each request takes 0.1 s
        )
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")},
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{database}"),
            *("--artifacts-destination", str(folder / "kept")),
        ]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Postgres(Process):
    """PostgreSQL (Debian's package postgresql) with a password, in its own folder, which `remove` deletes."""

    end = signal.SIGQUIT  # at once, but its children first: they hold memory that a restart needs

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not found:
            pytest.skip("no PostgreSQL: apt-get install postgresql")
        # Not in pytest's folder: PostgreSQL refuses to run as root, and other users cannot enter that folder
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        super().__init__(self.folder / "log")
        self._bin, root = found[-1], os.geteuid() == 0
        self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
        data, password = self.folder / "data", self.folder / "password"
        password.write_text(PASSWORD)
        if root:
            for path in (self.folder, password):
                shutil.chown(path, "postgres", "postgres")
        initdb = [self._bin / "initdb", "--no-sync", "--auth=scram-sha-256", "--username", USER]
        subprocess.run(
            [*self._as_user, *map(str, initdb), f"--pwfile={password}", "-D", str(data)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        self.command = [
            *(*self._as_user, str(self._bin / "postgres"), "-D", str(data), "-p", str(self.port)),
            *(part for setting in settings for part in ("-c", setting)),
        ]

    @property
    def uri(self) -> str:
        return self.uri_with(PASSWORD)

    def uri_with(self, password: str, database: str = "postgres") -> str:
        quoted = password.replace(" ", "%20")
        return f"postgresql://{USER}:{quoted}@127.0.0.1:{self.port}/{database}"

    def connected(self) -> Any:
        import psycopg2

        return psycopg2.connect(self.uri)

    def is_ready(self) -> bool:
        import psycopg2

        try:
            self.connected().close()
        except psycopg2.OperationalError:
            return False
        return True

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
