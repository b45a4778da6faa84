"""Run one stage in an empty folder; make wheels; serve a hub or a file server on loopback."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from stages.common.core.files import sha256_file
from stages.fetch.source_file import SourceFile

REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "HF_ENDPOINT": "http://127.0.0.1:9"}  # fmt: skip


def stage_folder(folder: Path, sections: Mapping[str, Any]) -> Path:
    """Write what one stage needs to run in a folder: dvc.yaml and a composed configuration."""
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "reports/config.yaml").write_text(yaml.safe_dump(dict(sections)), "utf-8")
    return folder


def run_stage(
    folder: Path, stage: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m stages.<stage>` in `folder`, without a network beyond what `env` names."""
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


def made_file(name: str, data: bytes) -> SourceFile:
    """Write a file with this name and content, and return it as a source's."""
    path = Path(FILES.name, hashlib.sha256(data).hexdigest()[:16], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return SourceFile(name, path)


def make_wheel(path: Path, members: Mapping[str, bytes]) -> str:
    """Write a wheel with these members, and return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sha256_file(path)


@dataclass
class Site:
    """What a loopback server serves, which faults it has, and the requests it got."""

    # Of a hub: files at `commit` by repository (owner/name of a model, or datasets/owner/name); a key ending
    # in @<commit> holds the files at another commit.
    repositories: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    # Of a plain file server, by path.
    files: Mapping[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    # Names of files that the hub redirects to a separate store.
    lfs: frozenset[str] = frozenset()
    # Whether the server supports Range requests.
    ranges: bool = True
    # By end of a path: where the next responses break off.
    cuts: dict[str, list[int]] = field(default_factory=dict)
    # By part of a path: status and headers of the next responses.
    faults: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    # The Authorization header that is required; "": none.
    login: str = ""
    # Method, path and Range of each request.
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    address: str = ""

    def gets(self, end: str) -> list[str]:
        """Return the Range of each GET of a path with this end, "" for the whole file."""
        return [part for method, path, part in self.requests if method == "GET" and path.endswith(end)]


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site on loopback; its address is in `site.address`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            site.requests.append((self.command, path, self.headers.get("Range", "")))
            length = int(self.headers.get("Content-Length") or 0)
            form = self.rfile.read(length) if length else b""
            status, headers, body = fault(site, path) or answer(site, path, form)
            if site.login and self.headers.get("Authorization") != site.login:
                status, headers, body = 401, {"X-Error-Code": "RepoNotFound"}, b""
            start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if status == 200 and site.ranges:
                headers = {"Accept-Ranges": "bytes", **headers}
                if start and int(start[1]) < max(1, len(body)):
                    last = min(int(start[2] or len(body)), len(body) - 1)
                    headers["Content-Range"] = f"bytes {start[1]}-{last}/{len(body)}"
                    status, body = 206, body[int(start[1]) : last + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = next((at for end, at in site.cuts.items() if path.endswith(end)), [])
            if cut and len(body) > cut[0]:
                body, self.close_connection = body[: cut.pop(0)], True
            with suppress(ConnectionError):  # a client that does not want the rest
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]], commit: str = COMMIT) -> Iterator[str]:
    """A Hugging Face hub on loopback; its address, for HF_ENDPOINT.

    `repositories` maps `owner/name` of a model, or `datasets/owner/name`, to its files at `commit`.
    """
    with serving(Site(repositories, commit=commit)) as site:
        yield site.address


Answer = tuple[int, dict[str, str], bytes]
JSON = {"Content-Type": "application/json"}


def fault(site: Site, path: str) -> Answer | None:
    """Return the next fault of a path, if any is left."""
    for part, answers in site.faults.items():
        if part in path and answers:
            status, headers = answers.pop(0)
            return status, dict(headers), b""
    return None


def answer(site: Site, path: str, form: bytes) -> Answer:
    """Return status, headers and body of a plain file, a hub repository's facts, its tree, or one of its files."""
    if path in site.files:
        etag = f'"{hashlib.sha1(site.files[path]).hexdigest()}"'
        return 200, {"ETag": etag, "Content-Type": "application/octet-stream"}, site.files[path]
    if path.startswith("/store/"):
        stored = {
            hashlib.sha256(d).hexdigest(): d for files in site.repositories.values() for d in files.values()
        }
        data = stored[path.rpartition("/")[2]]
        return 200, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}, data
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        name = ("datasets/" if parts[1] == "datasets" else "") + "/".join(parts[2:4])
        rest = parts[4:]
    else:
        width = 3 if parts[0] == "datasets" else 2
        name, rest = "/".join(parts[:width]), parts[width:]
    commits = {key.partition("@")[2] or site.commit: files for key, files in site.repositories.items() if key.partition("@")[0] == name}  # fmt: skip
    if not commits:
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
    if rest[1:2] == ["main"] and site.commit in commits:  # a branch, which only facts are asked of
        readme = commits[site.commit].get("README.md", b"").decode().split("---\n")
        card = yaml.safe_load(readme[1]) if len(readme) > 2 else {}
        return (
            200,
            JSON,
            json.dumps({"id": name, "sha": site.commit, "siblings": [], "cardData": card}).encode(),
        )
    if len(rest) < 2 or rest[1] not in commits:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
    files, commit = commits[rest[1]], rest[1]
    if rest[0] == "revision":
        facts = {
            "id": name.removeprefix("datasets/"),
            "sha": commit,
            "siblings": [{"rfilename": f} for f in files],
        }
        return 200, JSON, json.dumps(facts).encode()
    if rest[0] == "tree":
        entries = tree(site, files, "/".join(rest[2:]))
        return (
            (200, JSON, json.dumps(entries).encode())
            if entries
            else (404, {"X-Error-Code": "EntryNotFound"}, b"")
        )
    if rest[0] == "paths-info":
        asked = {path for key, path in parse_qsl(form.decode()) if key == "paths"}
        if form[:1] == b"{":
            asked = set(json.loads(form)["paths"])
        return 200, JSON, json.dumps([e for e in tree(site, files, "") if e["path"] in asked]).encode()
    return file_response(site, files, "/".join(rest[2:]), commit)


def tree(site: Site, files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """Files and folders below a folder of a repository."""
    below = {f: d for f, d in files.items() if f.startswith(f"{folder}/" if folder else "")}
    folders = {
        str(parent) for f in below for parent in PurePosixPath(f).parents if str(parent) not in (".", folder)
    }
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": f, "oid": "0" * 40} for f in sorted(folders)
    ]
    for name, data in below.items():
        oid = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry = {"type": "file", "path": name, "size": len(data), "oid": oid}
        if name in site.lfs:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        entries.append(entry)
    return entries


def file_response(site: Site, files: Mapping[str, bytes], name: str, commit: str) -> Answer:
    """Return a file of a repository, or a redirect to where the hub stores it."""
    if name not in files:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    data = files[name]
    if name in site.lfs:
        sha256 = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256}"', "X-Repo-Commit": commit}
        return (
            302,
            {**linked, "Location": f"{site.address.replace('127.0.0.1', 'localhost')}/store/{sha256}"},
            b"",
        )
    etag = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, data
