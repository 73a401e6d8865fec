"""The serving files name what exists: settings, an importable application, metrics that the code writes."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from safe_r1.serve import telemetry
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.proxy import ENVIRONMENT

CLUSTER = Path(__file__).parents[2] / "cluster"


def test_the_application_is_one_that_serve_takes():
    content: Any = yaml.safe_load((CLUSTER / "serve" / "application.yaml").read_text("utf-8"))
    deployed = ServeDeploySchema.model_validate(content)
    for application in deployed.applications:
        module, _, name = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        config = ServeConfig.model_validate(application.args)
        assert config.api_keys, "it listens for other machines"


def test_the_dashboard_shows_metrics_that_are_written():
    dashboard = json.loads((CLUSTER / "monitoring" / "serving.json").read_text("utf-8"))
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(safe_r1_\w+)", target["expr"])
    }
    written = set(re.findall(r'"(safe_r1_\w+)"', Path(telemetry.__file__).read_text("utf-8")))
    assert shown == written
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_nodes_of_the_service_have_the_environment_of_its_proxy():
    [service] = yaml.safe_load_all((CLUSTER / "kuberay" / "serve" / "rayservice.yaml").read_text("utf-8"))
    config = service["spec"]["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        given = {each["name"]: each.get("value") for each in container["env"]}
        assert given.items() >= ENVIRONMENT.items(), group.get("groupName", "head")
