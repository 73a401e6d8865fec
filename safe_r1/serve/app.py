"""The service as one Ray Serve application: an ingress, a judge, and a deployment for each model."""

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safe_r1.errors import ConfigError
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import resolve_engine
from safe_r1.judge.factory import check_kind
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import Variant, get_variant
from safe_r1.resources import Cluster, connect
from safe_r1.serve.config import LOOPBACK, ServeConfig
from safe_r1.serve.deployment import DeploymentSpec, model_deployment
from safe_r1.serve.keys import read_keys
from safe_r1.serve.tools import choose_parser
from safe_r1.serve.traces import check_traces
from safe_r1.settings import load_config

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

APP_NAME = "safe_r1"
# The replicas have ended when the HTTP proxy has their last responses; it may still be sending these.
_FLUSH_S = 2.0
# Of the time for ending, what is left for the deployments once requests are no longer waited for.
_END_S = 10.0


def check_config(config: ServeConfig) -> None:
    """Reject settings that must not be served.

    Raises:
        ConfigError: A public address without API keys, an invalid key file, two models of one name, an
            unknown judge or tool parser, or traces without the packages that send them.
    """
    if config.host not in LOOPBACK and config.api_keys is None:
        raise ConfigError(
            f"--host {config.host} accepts requests from other machines: add --api-keys FILE, or use "
            "--host 127.0.0.1"
        )
    if config.api_keys:
        read_keys(config.api_keys)
    # The name identifies a model in requests, deployments and metrics.
    variants = [get_variant(name) for name in config.variants]
    if given := [variant.name for variant in variants if variant.is_given]:
        raise ConfigError(
            f"--variant: {', '.join(given)}: answers of a file can be evaluated, not served; name a model"
        )
    names = [variant.name for variant in variants]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ConfigError(f"--variant: {', '.join(duplicates)} given twice; model names must be unique")
    for kind in (config.judge.kind, *config.judges):
        check_kind(kind)
    if config.traces:
        check_traces(config.traces)
    if config.tool_parser != "auto":
        choose_parser(config.tool_parser, "")


def build(config: ServeConfig, cluster: Cluster) -> "Application":
    """The Serve application, for ``serve.run``.

    Raises:
        SafeR1Error: Invalid settings, a model or judge that cannot be loaded, or a model too large for the
            cluster.
    """
    from ray import serve

    from safe_r1.serve.ingress import Ingress
    from safe_r1.serve.judges import judge_deployment, plan_judges

    # Before any model is downloaded.
    check_config(config)
    named = [get_variant(name) for name in config.variants]
    remote = [variant for variant in named if variant.endpoint]
    served = [
        prepare(variant, config.engine.trust_remote_code)[0] for variant in named if not variant.endpoint
    ]
    # Planned once here, so that all replicas have the same judges.
    judges = plan_judges(config)
    specs = plan_models(config, served, [plan.model for plan in judges.values() if plan.model], cluster)
    handles = {spec.variant.name: model_deployment(spec, config.scaling) for spec in specs}
    judge_apps = {
        name: judge_deployment(plan, config.judge_replicas, "Judge" if place == 0 else f"Judge-{name}")
        for place, (name, plan) in enumerate(judges.items())
        if plan.model is None
    }
    deployment = serve.deployment(
        name="Ingress",
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0.5},
        graceful_shutdown_timeout_s=60,
        max_surge_percent=100,
        logging_config={"enable_access_log": False},
    )
    ingress = deployment(serve.ingress()(Ingress))
    names = [variant.name for variant in named]
    return ingress.bind(config, names, judges, specs, handles, judge_apps, remote)


def plan_models(
    config: ServeConfig, served: Sequence[Variant], judge_models: Sequence[Variant], cluster: Cluster
) -> list[DeploymentSpec]:
    """The models to deploy; one that several need, to answer or to judge, is deployed once.

    Raises:
        ConfigError: The judge's model and a served model are different, but have the same name.
        ResourceError: A model does not fit the cluster.
    """
    engines = [(variant, config.engine) for variant in served]
    for judge_model in judge_models:
        shared = next((variant for variant, _ in engines if variant.name == judge_model.name), None)
        if shared is None:
            engines.append((judge_model, config.judge.engine))
        elif (shared.source, shared.prompt) != (judge_model.source, judge_model.prompt):
            raise ConfigError(
                f"the judge's model and a served model are both named {shared.name!r}, but are not the same: "
                "rename one of the folders"
            )
    specs = []
    for variant, engine in engines:
        device = pick_device(variant, engine.device, cluster.gpu_total)
        resolved = resolve_engine(variant, engine, device, cluster)
        specs.append(DeploymentSpec(variant, resolved, device, config.scaling.max_replicas))
    return specs


def from_args(args: dict[str, object]) -> "Application":
    """The application from the ``args`` of a Serve config file whose ``import_path`` is this function."""
    return build(load_config(ServeConfig, None, [], **args), connect())


def run(config: ServeConfig, cluster: Cluster) -> "DeploymentHandle":
    """Start the service and wait until it is up; returns the handle of the ingress.

    Raises:
        SafeR1Error: See ``build``; or Ray Serve is already running on another address.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    # On every node, so that a load balancer may send requests to any of them.
    serve.start(http_options={"host": config.host, "port": config.port, "location": "EveryNode"})
    client = _get_global_client()
    assert client is not None, "Serve was started above"
    check_address(config, client.http_config.host, client.http_config.port)
    return serve.run(build(config, cluster), name=APP_NAME, route_prefix="/")


def check_address(config: ServeConfig, host: str | None, port: int) -> None:
    """Reject an address other than that of the Ray Serve that is running, which would ignore it.

    Raises:
        ConfigError: The addresses differ.
    """
    if (host, port) != (config.host, config.port):
        raise ConfigError(
            f"Ray Serve is already running on this Ray cluster, on {host}:{port}: use --host {host} --port "
            f"{port}, or RAY_ADDRESS=local to start a Ray of its own"
        )


def stop(ingress: "DeploymentHandle", timeout_s: float) -> None:
    """Stop the service: new requests are rejected, and requests in progress are finished first.

    Args:
        ingress: Handle of the ingress.
        timeout_s: Longest time in seconds; then requests that are still in progress are cut off.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + timeout_s
    # Serve deletes the models together with the ingress, even while they are generating: therefore every
    # ingress replica is drained before.
    with contextlib.suppress(RayServeException):  # the ingress is already gone
        ingress.broadcast("drain", max(1.0, timeout_s - _END_S)).results(return_exceptions=True)
    # Without waiting, as Serve would for each replica that is busy.
    serve.delete(APP_NAME, _blocking=False)
    while APP_NAME in serve.status().applications and time.monotonic() < deadline - _FLUSH_S:
        time.sleep(0.2)
    time.sleep(_FLUSH_S)
    # On a Ray that keeps running, Serve would keep its port as well, which the next service may not use.
    if not serve.status().applications:
        serve.shutdown()
