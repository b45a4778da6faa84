"""MLflow's server application on loopback in this process, which a test can stop and restart."""

import threading
from pathlib import Path
from typing import Any

import pytest


class TrackingServer:
    """Serves a sqlite store at `uri`; `stop` makes it refuse connections, `start` serves it again."""

    def __init__(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow.server import handlers
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(f"sqlite:///{database}", str(database.parent / "served"))
        monkeypatch.setattr(handlers, "_tracking_store", store)
        self._port = 0
        self._server: Any = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from mlflow.server import app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                pass

        self._server = make_server("127.0.0.1", self._port, app, threaded=True, request_handler=Quiet)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
