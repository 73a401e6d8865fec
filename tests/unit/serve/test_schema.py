"""Requests made from the service's own schema, wrong ones among them: none may end in a 5xx."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from safe_r1.serve.config import LimitConfig, ServeConfig
from safe_r1.serve.http import create_app
from safe_r1.serve.service import Service
from tests.unit.serve.test_http import Judge, Model, nothing_missing

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: uv pip install schemathesis")


def make_app(folder: Path) -> Any:
    config = ServeConfig(
        batches=str(folder), limits=LimitConfig(requests_per_minute=1_000_000, items_per_minute=100_000_000)
    )
    models: Any = {"demo": Model()}
    made = create_app(Service(config, models, Judge(), nothing_missing))

    async def local(scope: Any, receive: Any, send: Any) -> None:
        # The test client gives itself a name that is no address of this machine.
        await made(scope | {"client": ("127.0.0.1", 1)} if scope["type"] == "http" else scope, receive, send)

    return local


def test_no_request_ends_in_a_server_error(tmp_path: Path):
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(tmp_path))
    asked: Counter[str] = Counter()
    for operation in (result.ok() for result in schema.get_all_operations()):

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any):
            response = case.call()
            asked[f"{case.method} {case.path}"] += 1
            assert response.status_code < 500, (case.method, case.path, response.status_code)
            if response.status_code >= 400:
                assert response.json()["error"]["message"]

        ask()
    assert len(asked) >= 16, asked
