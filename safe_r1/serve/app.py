"""The service as one Ray Serve application: an ingress, a judge, and a deployment for each model."""

import contextlib
import time
from typing import Any

from safe_r1.config import load_config
from safe_r1.errors import ConfigError
from safe_r1.inference.engine import check_resources, engine_arguments
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.resources import Cluster, connect, pick_device
from safe_r1.serve.config import LOOPBACK, ServeConfig
from safe_r1.serve.keys import read_keys

APP_NAME = "safe_r1"
# Replicas are gone when the proxy has their last answers; it may still be passing them on.
_FLUSH_S = 2.0
_DRAIN_S = 60.0


def check_config(config: ServeConfig) -> None:
    """Refuse what must not be served.

    Raises:
        ConfigError: No model and no judge would be asked, two models of one name, or an open address without
            keys.
    """
    if config.host not in LOOPBACK and config.api_keys is None:
        raise ConfigError(
            f"--host {config.host} lets other machines ask: give --api-keys FILE, or --host 127.0.0.1"
        )
    if config.api_keys:
        read_keys(config.api_keys)
    names = [get_variant(name).name for name in config.variants]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"--variant: {', '.join(doubled)} twice; each model needs a name of its own")


def make_variants(config: ServeConfig) -> tuple[list[Variant], Variant | None]:
    """The models to be asked and the one that judges, their sources ready to load.

    Raises:
        ModelError: One cannot be had.
    """
    served = [prepare(get_variant(name))[0] for name in config.variants]
    if config.judge.kind != "llm":
        return served, None
    wanted = get_variant(config.judge.model) if config.judge.model else DEFAULT_JUDGE
    return served, next((variant for variant in served if variant.name == wanted.name), None) or prepare(
        wanted
    )[0]


def build(config: ServeConfig, cluster: Cluster) -> Any:
    """The application, to be given to ``serve.run``.

    Raises:
        SafeR1Error: A model cannot be had, or the cluster cannot hold it.
    """
    from ray import serve

    from safe_r1.serve.engine import model_deployment
    from safe_r1.serve.ingress import Ingress
    from safe_r1.serve.judges import judge_deployment

    check_config(config)
    served, judge = make_variants(config)
    handles, rooms = {}, {}
    for variant in {each.name: each for each in [*served, *filter(None, [judge])]}.values():
        engine = config.engine if variant in served else config.judge.engine
        device = pick_device(variant, engine.device, cluster.gpu_total)
        check_resources(variant, engine, device, cluster.gpu_total, cluster.memory_gib)
        handles[variant.name] = model_deployment(variant, engine, config.scaling, device)
        rooms[variant.name] = (
            engine_arguments(variant, engine, device)["max_num_seqs"] * config.scaling.max_replicas
        )
    judge_handle = None if judge else judge_deployment(config.judge, config.judge_replicas)
    options: dict[str, Any] = {
        "name": "Ingress",
        "num_replicas": config.ingress_replicas,
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": config.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": 0.5},
        "graceful_shutdown_timeout_s": 60,
        "logging_config": {"enable_access_log": False},
    }
    ingress = serve.deployment(**options)(serve.ingress()(Ingress))
    return ingress.bind(config, served, judge, handles, rooms, judge_handle)


def from_args(args: dict[str, Any]) -> Any:
    """The application from a Serve config file's ``args``, as a RayService names it:
    ``safe_r1.serve.app:from_args``.
    """
    return build(load_config(ServeConfig, None, [], **args), connect())


def run(config: ServeConfig, cluster: Cluster) -> Any:
    """Start the service and wait until it answers; gives the ingress's handle."""
    from ray import serve

    serve.start(http_options={"host": config.host, "port": config.port, "location": "EveryNode"})
    return serve.run(build(config, cluster), name=APP_NAME, route_prefix="/")


def stop(ingress: Any) -> None:
    """End the service; requests that are being answered are waited for, new ones refused."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    # Serve takes the models away beside the ingress, whatever they are writing: so every ingress comes to
    # rest first.
    with contextlib.suppress(RayServeException):  # there is none any more
        ingress.broadcast("drain", _DRAIN_S).results(return_exceptions=True)
    serve.delete(APP_NAME)
    time.sleep(_FLUSH_S)
