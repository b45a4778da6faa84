"""A hub on loopback that takes uploads: repositories made, files sent (large ones by Git LFS), commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".parquet")  # by Git LFS


@dataclass
class UploadHub:
    """What the hub holds, and what was sent."""

    address: str = ""
    # Files by repository, as owner/name or datasets/owner/name
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    # Objects of Git LFS by sha256, and how often one was sent
    objects: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0
    # Commits to refuse, with this status
    refuse: list[int] = field(default_factory=list)

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}".removeprefix("/")
            name = asked["name"] if "/" in asked["name"] else name
            key = ("datasets/" if asked.get("type") == "dataset" else "") + name
            if key in self.repositories:
                return 409, {"error": "it exists", "url": f"{self.address}/{key}"}
            self.repositories[key], self.private[key] = (
                {},
                "private" in (asked.get("visibility"), "private" * bool(asked.get("private"))),
            )
            return 200, {"url": f"{self.address}/{key}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self.action(one) for one in json.loads(body)["objects"]]}
        kind, owner, name, what = path.removeprefix("/api/").split("/")[:4]
        files = self.repositories[f"{'datasets/' * (kind == 'datasets')}{owner}/{name}"]
        if what == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if self.refuse:
            return self.refuse.pop(0), {"error": "not now"}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        return 200, {
            "success": True,
            "commitOid": "0" * 40,
            "commitUrl": f"{self.address}/{owner}/{name}/commit/{0:040}",
            "hookOutput": "",
        }

    def action(self, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.address}/objects/{asked['oid']}", "header": {}}
        return {**asked, **({} if asked["oid"] in self.objects else {"actions": {"upload": upload}})}


@contextmanager
def upload_hub() -> Iterator[UploadHub]:
    """Serve a hub on loopback."""
    hub = UploadHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, values: dict[str, Any]) -> None:
            body = json.dumps(values).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self) -> None:
            body = self.body()
            try:
                self.reply(*hub.post(self.path.partition("?")[0], body))
            except Exception as error:  # a test sees it as the hub's answer
                self.reply(500, {"error": repr(error)})

        def do_PUT(self) -> None:
            data = self.body()
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            hub.sent += 1
            self.reply(200, {})

        def do_GET(self) -> None:
            self.reply(200, {"sha": "0" * 40, "id": "me/model", "siblings": []})

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
