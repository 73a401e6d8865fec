"""A local server with OpenAI's chat interface, whose answers a test decides."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from safe_r1.schema import RefusalLabel

Answer = tuple[int, Any]
"""HTTP status and body: an object that becomes JSON, bytes, or a function that writes the whole answer."""


def reply(label: str, finish_reason: str = "stop") -> Answer:
    return 200, completion(f"[答案] {label}\n[分析] 依据🙂", finish_reason)


def completion(content: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content},
    }
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "judge-model", "choices": [choice]}


class Server:
    """Answers chat calls by ``answer(user_turn, number_of_call)``, or by ``on_request(body, number_of_call)``
    where that is set; counts calls and the most in flight.
    """

    def __init__(self):
        self.on_request: Callable[[dict[str, Any], int], Answer] | None = None
        self.answer: Callable[[str, int], Answer] = lambda text, call: reply(RefusalLabel.REFUSAL)
        self.models: Any = {
            "object": "list",
            "data": [{"id": "judge-model", "object": "model", "created": 0, "owned_by": "x"}],
        }
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.headers: list[Any] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.paths.append(self.path)
                self.send(200, server.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    server.paths.append(self.path)
                    server.keys.append(self.headers["Authorization"])
                    server.headers.append(self.headers)
                    call = len(server.requests)
                    server.in_flight += 1
                    server.most_in_flight = max(server.most_in_flight, server.in_flight)
                try:
                    if server.on_request:
                        status, answer = server.on_request(body, call)
                    else:
                        status, answer = server.answer(body["messages"][1]["content"], call)
                finally:
                    with server.lock:
                        server.in_flight -= 1
                self.send(status, answer)

            def send(self, status: int, answer: Any) -> None:
                if callable(answer):
                    answer(self)
                    return
                data = (
                    answer if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False).encode()
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away, as killed ones do, is no fault of the server."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
