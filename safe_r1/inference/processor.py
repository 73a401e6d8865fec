"""Ray Data's stage for a vLLM engine, as this project sets it up; the only importer of ``ray.data.llm``."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safe_r1.config import EngineConfig
from safe_r1.inference.engine import (
    engine_arguments,
    engine_bundles,
    engine_environment,
    engine_place,
)
from safe_r1.inference.placement import placement
from safe_r1.models.fetch import loadable
from safe_r1.models.registry import Variant
from safe_r1.resources import Device

if TYPE_CHECKING:
    from ray.data.llm import Processor
    from ray.util.placement_group import PlacementGroup


@dataclass(frozen=True)
class Dispatch:
    """How rows are handed to one engine.

    Attributes:
        rows: Rows of a batch. One is ideal for the engine, but each batch costs Ray some milliseconds.
        batches: Batches that an engine has at the same time.
    """

    rows: int
    batches: int


def preload() -> None:
    """Import what an engine's stage needs."""
    # Ray itself first, so that another thread, which starts it, does not meet it half imported.
    importlib.import_module("ray")
    with _left_out("vllm"):
        importlib.import_module("ray.data.llm")
        importlib.import_module("safe_r1.inference.engine_stage")


@contextmanager
def _left_out(module: str) -> Iterator[None]:
    """A module that this process has not imported cannot be imported in the block.

    Ray describes an engine's stage without vLLM too, whose import would take seconds before the engine's own
    process, which imports it anyway, can start.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # pyright: ignore[reportArgumentType] - documented: importing it then fails
    try:
        yield
    finally:
        del sys.modules[module]


class _NoTelemetry:
    """Stands for Ray's agent of usage telemetry, and reports nothing."""

    def push_telemetry_report(self, telemetry: object) -> None:
        """See Ray's."""


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """In the block, Ray Data LLM does not report what it is used for: it does so through an actor, a process
    of 125 MiB that the job waits for and that stays until its end.
    """
    # Ray's own name for it, which it does not export.
    vllm_engine_proc: Any = importlib.import_module("ray.llm._internal.batch.processor.vllm_engine_proc")
    made_by_ray = vllm_engine_proc.get_or_create_telemetry_agent
    vllm_engine_proc.get_or_create_telemetry_agent = _NoTelemetry
    try:
        yield
    finally:
        vllm_engine_proc.get_or_create_telemetry_agent = made_by_ray


def make_processor(
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    sizes: Dispatch,
    groups: "list[PlacementGroup]",
) -> "Processor":
    """The stage of an engine.

    Args:
        variant: The model.
        engine: Engine settings.
        device: Where the engine runs.
        sizes: How rows are handed to it.
        groups: Receives the placement groups that its start reserves.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = engine_arguments(variant, engine, device)
    config = vLLMEngineProcessorConfig(
        model_source=loadable(variant.source, variant.revision, weights=False)[0],
        engine_kwargs=arguments,
        runtime_env={"env_vars": engine_environment(variant, engine, device)},
        batch_size=sizes.rows,
        max_concurrent_batches=sizes.batches,
        concurrency=(1, engine.replicas),
        # A row that fails gets an error in its result, and does not end the job.
        should_continue_on_error=True,
        log_engine_metrics=False,
        placement_group_config={"bundles": engine_bundles(arguments, device)},
        accelerator_type=None,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    with _left_out("vllm"), _without_telemetry():
        from safe_r1.inference.engine_stage import FinalOutputStage

        processor = build_processor(config)
    # Rows come rendered in the column that the engine's stage reads, and leave as it writes them: both of the
    # processor's own stages around it would cost a Ray task for each batch of rows.
    processor.preprocess = processor.postprocess = None
    for name, made in processor.stages.items():
        # The engine's is the only one. A copy, as an assignment would validate it again and reset the rest.
        stage = processor.stages[name] = made.model_copy(update={"fn": FinalOutputStage})
        # Ray Data restarts a dead actor without limit; an engine that keeps dying has to end the job.
        stage.map_batches_kwargs["max_restarts"] = engine.max_restarts
        if "ray_remote_args_fn" in stage.map_batches_kwargs:
            place = engine_place(arguments, engine, device)
            stage.map_batches_kwargs["ray_remote_args_fn"] = placement(place, groups)
    return processor
