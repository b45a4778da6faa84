"""What tests of base and fetch share: one stage run alone in an empty folder, wheels made here, a hub on loopback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from stages.common.files import sha256_file
from stages.fetch.files import File

REPOSITORY = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "HF_ENDPOINT": "http://127.0.0.1:9"}  # fmt: skip


def stage_folder(folder: Path, sections: Mapping[str, Any]) -> Path:
    """A folder in which one stage can run: dvc.yaml and a composed configuration."""
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "reports/config.yaml").write_text(yaml.safe_dump(dict(sections)), "utf-8")
    return folder


def run_stage(
    folder: Path, stage: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m stages.<stage>` in `folder`, with nothing of a network but what `env` names."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HYDRA_FULL_ERROR")
    }
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(folder / "hf"), **NOWHERE, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


FILES = tempfile.TemporaryDirectory()  # removed when the interpreter ends


def made_file(name: str, data: bytes) -> File:
    """A file with this name and content, as a source gives it."""
    path = Path(FILES.name, hashlib.sha256(data).hexdigest()[:16], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return File(name, path)


def make_wheel(path: Path, members: Mapping[str, bytes]) -> str:
    """A wheel with these members; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sha256_file(path)


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]], commit: str = COMMIT) -> Iterator[str]:
    """A Hugging Face hub on loopback; its address, for HF_ENDPOINT.

    `repositories` maps `owner/name` of a model, or `datasets/owner/name`, to its files at `commit`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = answer(repositories, commit, unquote(urlsplit(self.path).path))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(
    repositories: Mapping[str, Mapping[str, bytes]], commit: str, path: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body: the repository's facts, its tree, or one of its files."""
    kind, parts = "", path.strip("/").split("/")
    if parts[0] == "api":
        kind, parts = parts[1], parts[2:]
        name = ("datasets/" if kind == "datasets" else "") + "/".join(parts[:2])
        rest = parts[2:]
    else:
        width = 3 if parts[0] == "datasets" else 2
        name, rest = "/".join(parts[:width]), parts[width:]
    if name not in repositories:
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
    if len(rest) < 2 or rest[1] != commit:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
    files = repositories[name]
    if rest[0] == "revision":
        facts = {
            "id": name.removeprefix("datasets/"),
            "sha": commit,
            "siblings": [{"rfilename": f} for f in files],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()
    if rest[0] == "tree":
        tree = [
            {"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            for f, d in files.items()
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
    file = "/".join(rest[2:])
    if file not in files:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    etag = hashlib.sha1(files[file]).hexdigest()
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, files[file]
