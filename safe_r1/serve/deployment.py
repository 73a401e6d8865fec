"""How a served model is deployed: its engine, its placement and its scaling."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from safe_r1.config import EngineConfig
from safe_r1.inference.engine import (
    context_length,
    engine_arguments,
    engine_bundles,
    engine_environment,
    placement_strategy,
)
from safe_r1.models.chat import load_tokenizer
from safe_r1.models.fetch import loadable
from safe_r1.models.registry import Variant
from safe_r1.resources import Device
from safe_r1.serve.config import ScalingConfig

if TYPE_CHECKING:
    from ray.serve import Application

# Ray runs it in the deployment before it starts vLLM.
_PREPARE_ENGINE = "safe_r1.serve.prepare.PrepareEngine"
# vLLM's reasoning parser for the tags that it knows as single tokens. In this service it does one thing: a
# completion that must keep to a schema thinks freely first.
_REASONING_PARSER = ("deepseek_r1", "<think>", "</think>")


@dataclass(frozen=True)
class DeploymentSpec:
    """How a model is deployed.

    Attributes:
        variant: The model's registry entry, ready to load.
        engine: Its vLLM settings.
        device: Where its replicas run.
        max_replicas: Maximum number of replicas.
    """

    variant: Variant
    engine: EngineConfig
    device: Device
    max_replicas: int = 1

    @property
    def context(self) -> int:
        """Context length in tokens, prompt and completion together."""
        return context_length(self.variant, self.engine)

    @property
    def replica_slots(self) -> int:
        """Sequences that one replica decodes concurrently."""
        return int(engine_arguments(self.variant, self.engine, self.device)["max_num_seqs"])


def model_deployment(spec: DeploymentSpec, scaling: ScalingConfig) -> "Application":
    """Serve application of one model, to be bound into the ingress."""
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from safe_r1.serve.model_server import ModelServer

    variant = spec.variant
    arguments = engine_arguments(variant, spec.engine, spec.device)
    if "reasoning_parser" not in arguments and frees_thoughts(spec):
        arguments["reasoning_parser"] = _REASONING_PARSER[0]
    slots = spec.replica_slots
    llm = LLMConfig(
        model_loading_config={
            "model_id": variant.name,
            "model_source": loadable(variant.source, variant.revision, weights=False)[0],
        },
        engine_kwargs=arguments,
        # The bundles of the placement group request the GPUs, of any type.
        accelerator_type=None,
        placement_group_config={
            "bundles": engine_bundles(arguments, spec.device),
            "strategy": placement_strategy(arguments),
        },
        runtime_env={"env_vars": engine_environment(variant, spec.engine, spec.device)},
        log_engine_metrics=True,
        deployment_config={
            # Serve's defaults for models are a billion requests: without limits of our own there is neither
            # back-pressure nor autoscaling.
            "max_ongoing_requests": slots,
            "max_queued_requests": int(slots * scaling.queue_share),
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": spec.max_replicas,
                "initial_replicas": scaling.min_replicas,
                "target_ongoing_requests": max(1, int(slots * scaling.target_share)),
                "downscale_delay_s": scaling.downscale_delay_s,
            },
            "logging_config": {"enable_access_log": False},
        },
    )
    llm.callback_config.callback_class = _PREPARE_ENGINE
    executor = arguments.get("distributed_executor_backend") if spec.device == "cpu" else None
    with _without_starting_ray():
        return build_llm_deployment(
            llm,
            deployment_cls=ModelServer,
            name_prefix="LLMServer:",
            bind_kwargs={"executor": executor},
            override_serve_options={"max_surge_percent": scaling.surge_percent},
        )


@contextlib.contextmanager
def _without_starting_ray() -> Iterator[None]:
    """In the block, a process without Ray starts none.

    Ray asks for the runtime environment of the job, which starts a Ray where there is no job.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    asked = ray.get_runtime_context
    ray.get_runtime_context = lambda: SimpleNamespace(runtime_env={})
    try:
        yield
    finally:
        ray.get_runtime_context = asked


def frees_thoughts(spec: DeploymentSpec) -> bool:
    """Whether the engine can tell where the thoughts of a reasoning model end."""
    if not spec.variant.prompt_format.is_reasoning:
        return False
    tokenizer = load_tokenizer(spec.variant.source, spec.variant.revision, spec.engine.trust_remote_code)
    vocabulary = tokenizer.get_vocab()
    return all(tag in vocabulary for tag in _REASONING_PARSER[1:])
