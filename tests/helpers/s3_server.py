"""moto's S3 on loopback, in a process of its own: `python -m tests.helpers.s3_server KEY FOLDER`. Its first line is the port.

Requests without KEY as their access key id are refused (moto itself lets everyone in; signatures are not checked). Where
FOLDER/puts exists, it holds how many more objects there is room for; after that a PUT is answered with 507.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication
from moto.server import create_backend_app as backend
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response


class Gate:
    """Answers what moto would not refuse, passes on the rest."""

    def __init__(self, key: str, folder: Path) -> None:
        self.key, self.puts = key, folder / "puts"
        self.moto = DomainDispatcherApplication(backend)
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if f"Credential={self.key}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return self.refuse("403 FORBIDDEN", "AccessDenied", environ, start)
        if environ["REQUEST_METHOD"] == "PUT" and self.full():
            return self.refuse("507 INSUFFICIENT STORAGE", "InsufficientStorage", environ, start)
        return self.moto(environ, start)

    def full(self) -> bool:
        with self.lock:
            if not self.puts.exists():
                return False
            left = int(self.puts.read_text("utf-8"))
            self.puts.write_text(str(max(0, left - 1)), "utf-8")
            return left <= 0

    @staticmethod
    def refuse(status: str, code: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        return Response(body, status, mimetype="application/xml")(environ, start)


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    gate = Gate(sys.argv[1], Path(sys.argv[2]))
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
