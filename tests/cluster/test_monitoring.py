"""The dashboards show metrics that Ray and vLLM write; Prometheus finds the nodes and is let in."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pytest
import ray
import yaml

from tests.cluster.manifests import CLUSTER, rendered

MONITORING = CLUSTER / "monitoring"
BOARDS = [MONITORING / "evaluation.json", MONITORING / "training.json"]


@cache
def rays_own_names() -> set[str]:
    """What Ray's own dashboards ask for."""
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = "\n".join(file.read_text("utf-8") for file in folder.glob("*.py"))
    return set(re.findall(r"\b(?:ray|autoscaler)_\w+", text))


@cache
def vllms_names() -> set[str]:
    """What vLLM writes, without its prefix; its wrappers for Ray turn the colon into an underscore."""
    spec = importlib.util.find_spec("vllm")
    if not spec or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    text = (Path(spec.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py").read_text("utf-8")
    return set(re.findall(r'"vllm:(\w+)"', text))


def metrics_of(expression: str) -> set[str]:
    """The metrics of a query: neither the labels that it groups by nor those that it selects."""
    bare = re.sub(r"\{[^}]*\}|(?:by|on|without) *\([^)]*\)", "", expression)
    return set(re.findall(r"\b(?:ray|autoscaler)_\w+", bare))


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.name)
def test_a_dashboard_shows_metrics_that_are_written(file):
    board = json.loads(file.read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown = set().union(*map(metrics_of, queries))
    assert len(shown) >= 15
    assert shown <= rays_own_names()
    for name in (name.removeprefix("ray_vllm_") for name in shown if name.startswith("ray_vllm_")):
        assert {name, re.sub(r"_(bucket|sum|count|total)$", "", name)} & vllms_names(), name
    assert all(query.count("(") == query.count(")") for query in queries)


def test_the_labels_that_are_grouped_by_are_no_metrics():
    query = (
        'sum by (ray_train_run_name) (rate(ray_data_output_rows{ray_a="b"}[5m]))'
        " / on() sum(autoscaler_active_nodes)"
    )
    assert metrics_of(query) == {"ray_data_output_rows", "autoscaler_active_nodes"}


def test_dashboards_do_not_collide():
    boards = [json.loads(file.read_text("utf-8")) for file in sorted(MONITORING.glob("*.json"))]
    assert len({board["uid"] for board in boards}) == len(boards) == 3
    for board in boards:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)


def test_prometheus_asks_ray_for_its_targets_with_the_token():
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (discovery,) = job["http_sd_configs"]
    assert discovery["url"].startswith("http://127.0.0.1:")
    reporter = Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_head.py"
    assert f'"{discovery["url"].partition(":8265")[2]}"' in reporter.read_text("utf-8")
    assert discovery["authorization"]["type"] == "Bearer"
    assert "credentials" not in discovery["authorization"], "the token stands in a file"


def test_the_network_lets_prometheus_reach_what_it_scrapes():
    monitors = rendered(MONITORING / "podmonitor.yaml")
    policies = rendered(CLUSTER / "kuberay" / "overlays" / "small")
    (policy,) = [m for m in policies if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "metrics"]
    open_ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    scraped = {
        endpoint.get("portNumber", 8080) for m in monitors for endpoint in m["spec"]["podMetricsEndpoints"]
    }
    assert scraped == open_ports
