"""Generates completions of dialogues with vLLM on Ray Data; the only importer of ``ray.data.llm``.

One stream: batches of requests → render and tokenize → engine → finish → shard. A few rows go to the engine
together and come back together, as a batch holds its place until its slowest row ends. They are written in
shards of some MB. The driver holds the rows of one shard, however many there are.

The first rows of a model that has not worked before are the canary: if all of them fail, or an engine cannot
start or keeps dying, the job ends with the reason instead of working through the rest.
"""

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError, ModelError
from safe_r1.inference.engine import engine_arguments, engine_bundles, engine_environment
from safe_r1.inference.placement import configure_data, placement, release
from safe_r1.inference.rendering import RenderBatches, Renderer
from safe_r1.inference.requests import BatchCounts, EngineResult, RequestBatch, Sampling
from safe_r1.inference.shard_buffer import ShardBuffer
from safe_r1.models.registry import Variant
from safe_r1.resources import Device
from safe_r1.runs import Row

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.data.llm import Processor
    from ray.util.placement_group import PlacementGroup

Finished = TypeVar("Finished")
"""A caller's form of a result, which it writes."""

_CANARY_ROWS = 16


@dataclass(frozen=True)
class Dispatch:
    """How rows are handed to one engine.

    Attributes:
        rows: Rows of a batch. One is ideal for the engine, but each batch costs Ray some milliseconds.
        batches: Batches that an engine has at the same time.
    """

    rows: int
    batches: int


def dispatch(num_seqs: int, rows: int) -> Dispatch:
    """Batches that keep ``num_seqs`` slots of an engine filled.

    A batch that waits for its slowest row holds rows that have ended, so that larger batches need more rows
    under way. With lognormal lengths (sigma 1.5) at least 97% of the slots are filled while rows are left;
    with 1.5 rows a slot it would be 68% at 4 rows a batch and 36% at 16.
    """
    rows_under_way = num_seqs * (1 + rows / 2)
    return Dispatch(rows, max(2, -(-int(rows_under_way) // rows)))


def generate(
    batches: Sequence[RequestBatch],
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    sampling: Sampling,
    finish: Callable[[EngineResult], Finished],
    write: Callable[[Sequence[Finished]], None],
    has_worked: bool = False,
) -> Iterator[BatchCounts]:
    """Complete all requests; yields counts as rows are finished.

    Args:
        batches: The rows, in the order in which they are started; none starts no engine.
        variant: The model.
        engine: Engine settings.
        device: Where the engine runs.
        sampling: Shared sampling settings.
        finish: Turns a result into what is written.
        write: Writes some rows as one shard, atomically.
        has_worked: Whether the model has completed rows of this run in an earlier session. What is left may
            then be rows that fail every time, of which a run may have some.

    Raises:
        ModelError: The engine cannot start, or fails every one of the first rows.
        EngineLostError: It keeps dying, or no machine came for it.
    """
    if not batches:
        return
    from ray.exceptions import GetTimeoutError, RayError

    configure_data(engine.start_timeout_s)
    groups: list[PlacementGroup] = []
    canary = _Canary(variant.name, sum(batch.num_rows for batch in batches), is_alive=has_worked)
    try:
        dataset = _stream(batches, variant, engine, device, sampling, groups)
        with ShardBuffer(write, engine.shard_mib, engine.shard_age_s) as buffer:
            # Without prefetching: rows are reported, and the canary checked, as soon as they are finished.
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                results = read_results(block)
                num_bytes = sum(4 * len(result["text"]) for result in results)
                buffer.add([finish(result) for result in results], num_bytes)
                canary.check(results)
                yield BatchCounts(
                    rows=len(results),
                    failed=sum(result["error"] is not None for result in results),
                    tokens=sum(result["completion_tokens"] for result in results),
                )
    except (RayError, GetTimeoutError) as error:
        kind = EngineLostError if is_loss(error) else ModelError
        raise kind(
            f"{variant.name}: the engine could not start or died more than {engine.max_restarts} times: "
            f"{last_line(error)}; the log holds the engine's own messages"
        ) from error
    finally:
        release(groups)


@dataclass
class _Canary:
    """Ends a job whose first rows all fail."""

    variant: str
    num_rows: int
    is_alive: bool
    num_seen: int = 0

    def check(self, results: Sequence[EngineResult]) -> None:
        self.num_seen += len(results)
        self.is_alive = self.is_alive or any(result["error"] is None for result in results)
        if not self.is_alive and self.num_seen >= min(_CANARY_ROWS, self.num_rows):
            raise ModelError(
                f"{self.variant}: every one of the first {self.num_seen} rows failed: {results[0]['error']}"
            )


def _stream(
    batches: Sequence[RequestBatch],
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    sampling: Sampling,
    groups: "list[PlacementGroup]",
) -> "Dataset":
    """The requests on their way through the engine; nothing runs before it is read."""
    import ray
    from ray.data import TaskPoolStrategy

    processor = _processor(variant, engine, device, groups)
    context = engine_arguments(variant, engine, device)["max_model_len"]
    render = RenderBatches(
        Renderer(variant, sampling, context, engine.trust_remote_code), processor.DATA_COLUMN
    )
    items = [{"batch": pickle.dumps(batch)} for batch in batches]
    rendered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        render,  # pyright: ignore[reportArgumentType] - Ray's protocol does not know generators' types
        batch_size=1,
        # Half a CPU keeps up with an engine; each further worker would import all libraries again.
        num_cpus=0.5,
        compute=TaskPoolStrategy(size=engine.replicas),
    )
    # Joined with the stage before by Ray Data: it costs no task of its own.
    return processor(rendered.repartition(target_num_rows_per_block=engine.batch_size))


def read_results(block: pa.Table) -> list[EngineResult]:
    """The results in a block of the engine's stage, whose one column holds structs."""
    column = block.column(0).combine_chunks()
    # Without the engine's further fields, such as token ids, which can be larger than the text.
    names = {field.name for field in column.type}
    kept = [name for name in _KEPT if name in names]
    return list(map(_result, pa.table({name: column.field(name) for name in kept}).to_pylist()))


_KEPT = (
    "key",
    "prompt_tokens",
    "prefix",
    "max_tokens",
    "num_generated_tokens",
    "generated_text",
    "__inference_error__",
)


def _result(row: Row) -> EngineResult:
    """The result in a row of the engine's stage."""
    error = row.get("__inference_error__") or None
    generated = int(row.get("num_generated_tokens") or 0)
    # Ray's engine stage does not pass vLLM's finish reason on; only the token limit ends a row at exactly
    # that many tokens.
    reason = None if error else "length" if generated >= int(row["max_tokens"]) else "stop"
    return {
        "key": row["key"],
        "prompt_tokens": int(row["prompt_tokens"]),
        "completion_tokens": generated,
        "text": "" if error else (row.get("prefix") or "") + row["generated_text"],
        "finish_reason": reason,
        "error": error,
        "parts": None,
        "blocked": None,
        "served_by": None,
    }


def is_loss(error: BaseException) -> bool:
    """True where a process died or never started, False where the code that ran in it raised an error."""
    from ray.exceptions import (
        ActorUnschedulableError,
        RayError,
        RayTaskError,
        RuntimeEnvSetupError,
        UserCodeException,
    )

    # Ray wraps what a task raised in an error of its own, whose cause it is.
    cause = getattr(error, "cause", error)
    own = (RayTaskError, UserCodeException, RuntimeEnvSetupError, ActorUnschedulableError)
    is_own = isinstance(cause, own) or getattr(cause, "actor_init_failed", False)
    return isinstance(cause, RayError) and not is_own


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray's, which is the error itself below tracebacks of workers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(error).__name__


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


def _processor(
    variant: Variant, engine: EngineConfig, device: Device, groups: "list[PlacementGroup]"
) -> "Processor":
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = engine_arguments(variant, engine, device)
    sizes = dispatch(arguments["max_num_seqs"], engine.batch_size)
    config = vLLMEngineProcessorConfig(
        model_source=variant.source,
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
    with _left_out("vllm"):
        processor = build_processor(config)
    # Rows come rendered in the column that the engine's stage reads, and leave as it writes them: both of the
    # processor's own stages around it would cost a Ray task for each batch of rows.
    processor.preprocess = processor.postprocess = None
    for stage in processor.stages.values():
        # Ray Data restarts a dead actor without limit; an engine that keeps dying has to end the job.
        stage.map_batches_kwargs["max_restarts"] = engine.max_restarts
        if "ray_remote_args_fn" in stage.map_batches_kwargs:
            stage.map_batches_kwargs["ray_remote_args_fn"] = placement(
                engine_bundles(arguments, device),
                groups,
                arguments["pipeline_parallel_size"],
                engine.start_timeout_s,
            )
    return processor
