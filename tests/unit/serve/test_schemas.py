"""Requests generated from the service's own schema, including invalid ones, never cause a server error."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from starlette.types import ASGIApp, Receive, Scope, Send

from safe_r1.serve.config import LimitConfig
from tests.unit.serve import fakes


def make_app(folder: Path) -> ASGIApp:
    limits = LimitConfig(requests_per_minute=1_000_000, items_per_minute=100_000_000)
    app = fakes.make_app(batches=str(folder), limits=limits, first_answer_timeout_s=900)

    async def from_loopback(scope: Scope, receive: Receive, send: Send) -> None:
        # The test client's address and name are not those of this machine.
        own: dict[str, Any] = {}
        if scope["type"] == "http":
            headers = [each for each in scope["headers"] if each[0] != b"host"]
            own = {"client": ("127.0.0.1", 1), "headers": [*headers, (b"host", b"127.0.0.1")]}
        await app({**scope, **own}, receive, send)

    return from_loopback


@pytest.mark.slow
def test_no_request_causes_a_server_error(tmp_path: Path):
    # Here, as the import takes seconds of every run.
    schemathesis = pytest.importorskip(
        "schemathesis", reason="needs schemathesis: uv pip install schemathesis"
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(tmp_path))
    num_requests: Counter[str] = Counter()
    for operation in (result.ok() for result in schema.get_all_operations()):

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
        )
        @given(case=operation.as_strategy())
        def send(case: Any):
            response = case.call()
            num_requests[f"{case.method} {case.path}"] += 1
            assert response.status_code < 500, (case.method, case.path, response.status_code)
            if response.status_code >= 400:
                assert response.json()["error"]["message"]

        send()
    assert len(num_requests) >= 16, num_requests
