"""``/metrics`` and traces."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from safe_r1.errors import ConfigError
from safe_r1.serve.app import check_config
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.metrics import merge_expositions
from safe_r1.serve.routes import create_app
from safe_r1.serve.service import Service
from tests.unit.serve.fakes import CHAT, FakeJudge, FakeModel, RecordingTelemetry, nothing_missing

NODE = """# HELP ray_safe_r1_requests_total Requests answered
# TYPE ray_safe_r1_requests_total counter
ray_safe_r1_requests_total{NodeAddress="NODE",path="/v1/models",status="200"} 3.0
# HELP ray_node_cpu_utilization CPU
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{NodeAddress="NODE"} 12.0
# HELP ray_vllm_time_seconds Seconds
# TYPE ray_vllm_time_seconds histogram
ray_vllm_time_seconds_bucket{NodeAddress="NODE",le="+Inf"} 1.0
ray_vllm_time_seconds_count{NodeAddress="NODE"} 1.0
ray_vllm_time_seconds_sum{NodeAddress="NODE"} 0.5
"""


def test_expositions_of_several_nodes_are_one():
    merged = merge_expositions([NODE.replace("NODE", name) for name in ("a", "b\u2028")])
    families = list(text_string_to_metric_families(merged))
    assert [family.name for family in families] == ["ray_safe_r1_requests", "ray_vllm_time_seconds"]
    assert [family.type for family in families] == ["counter", "histogram"]
    assert sum(sample.value for sample in families[0].samples) == 6
    assert {sample.labels["NodeAddress"] for sample in families[1].samples} == {"a", "b\u2028"}
    assert merged.count("# TYPE ray_vllm_time_seconds ") == 1


def get(
    path: str, headers: dict[str, str] | None = None, body: Any = None, **settings: Any
) -> httpx.Response:
    async def read() -> bytes:
        return NODE.encode()

    models: Any = {"demo": FakeModel()}
    service = Service(
        ServeConfig(**settings),
        models,
        FakeJudge(),
        nothing_missing,
        RecordingTelemetry(),
        read_metrics=read,
    )
    return asyncio.run(send(service, path, headers))


async def send(service: Service, path: str, headers: Any = None, body: Any = None) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(service), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await (
            http.post(path, json=body, headers=headers) if body else http.get(path, headers=headers)
        )


def test_metrics_need_a_key_where_there_are_keys(tmp_path: Path):
    assert get("/metrics").text == NODE
    assert get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    file = tmp_path / "keys.toml"
    file.write_text('[prometheus]\nkey = "a-secret-of-some-length"\n', "utf-8")
    assert get("/metrics", api_keys=str(file)).status_code == 401
    headers = {"Authorization": "Bearer a-secret-of-some-length"}
    assert get("/metrics", headers, api_keys=str(file)).status_code == 200


def test_a_request_is_a_span_of_its_callers_trace(monkeypatch: pytest.MonkeyPatch):
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from safe_r1.serve import traces

    exporter = export.InMemorySpanExporter()
    make = traces.make_tracer
    monkeypatch.setattr("safe_r1.serve.service.make_tracer", lambda url: make(url, exporter))
    models: Any = {"demo": FakeModel()}
    service = Service(
        ServeConfig(traces="http://127.0.0.1:4318"),
        models,
        FakeJudge(),
        nothing_missing,
        RecordingTelemetry(),
    )
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def run() -> None:
        await send(service, "/v1/chat/completions", {"traceparent": parent}, CHAT)
        items = [{"prompt": "秘密", "answer": "答"}]
        await send(service, "/v1/safety/evaluate", None, {"items": items})
        await send(service, "/healthz")

    asyncio.run(run())
    assert service.tracer
    provider: Any = service.tracer
    provider.span_processor.force_flush()
    spans = exporter.get_finished_spans()
    chat = next(span for span in spans if span.name == "POST /v1/chat/completions")
    assert f"{chat.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert chat.attributes["http.response.status_code"] == 200
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0
    judged = next(span for span in spans if span.name == "judge")
    evaluated = next(span for span in spans if span.name == "POST /v1/safety/evaluate")
    assert judged.parent.span_id == evaluated.context.span_id
    written = "".join(json.dumps(json.loads(span.to_json()), ensure_ascii=False) for span in spans)
    assert "秘密" not in written
    assert len(spans) == 3


def test_a_collector_that_cannot_be_sent_to_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="expected the URL"):
        check_config(ServeConfig(traces="localhost:4318"))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="pip install opentelemetry-sdk"):
        check_config(ServeConfig(traces="http://localhost:4318"))
