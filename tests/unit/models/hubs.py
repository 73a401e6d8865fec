"""Local hubs: the parts of ModelScope's and the Hugging Face hub's APIs that loading a model uses."""

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as the model ``owner/model``.

    Attributes:
        folder: With the files.
        reads: How often each file was asked for.
        ranges: ``Range`` headers that came.
        takes_ranges: Whether they are followed.
        stalls_at: Bytes after which a file of weights is sent no further, once; None: never.
        wrong_hash: Listed for all files, in place of their own.
        status: Answered to everything, where it is not 200.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.reads: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.takes_ranges = True
        self.stalls_at: int | None = None
        self.wrong_hash: str | None = None
        self.status = 200
        self.stalled = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed close their connections."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.status != 200:
            self._answer(b"{}", self.server.status)
            return
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query)
        path = unquote(parts.path)
        if path == "/api/v1/models/owner/model/repo/files":
            self._answer(json.dumps({"Code": 200, "Data": {"Files": self._listed()}}).encode())
        elif path == "/api/v1/models/owner/model/repo":
            self._send(asked["FilePath"][0])
        elif path.startswith("/api/models/owner/model/tree/"):
            self._answer(b"[]")
        elif path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": each["Path"], "size": each["Size"]} for each in self._listed()]
            info = {"id": "owner/model", "sha": COMMIT, "siblings": siblings}
            self._answer(json.dumps(info).encode())
        elif path.startswith((f"/owner/model/resolve/{COMMIT}/", "/owner/model/resolve/main/")):
            self._send(path.split("/", 5)[-1])
        else:
            self._answer(b'{"error": "no such thing"}', 404, {"X-Error-Code": "EntryNotFound"})

    def _listed(self) -> list[dict[str, object]]:
        files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
        return [
            {
                "Path": file.relative_to(self.server.folder).as_posix(),
                "Type": "blob",
                "Size": file.stat().st_size,
                "Sha256": self.server.wrong_hash or hashlib.sha256(file.read_bytes()).hexdigest(),
                "Revision": COMMIT,
            }
            for file in files
        ]

    def _send(self, name: str) -> None:
        file = self.server.folder / name
        if not file.is_file():
            self._answer(b"{}", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = file.read_bytes()
        if self.command == "GET":
            self.server.reads[name] += 1
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if asked and self.server.takes_ranges:
            self.server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            etag["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(content[start:], 206, etag)
            return
        self._answer(content, 200, etag, may_stall=name.endswith(".safetensors"))

    def _answer(
        self,
        content: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        may_stall: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        stalls_at = self.server.stalls_at if may_stall else None
        if stalls_at is not None:
            self.server.stalls_at = None
            self.wfile.write(content[:stalls_at])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.release.wait(30)
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what fails."""
