"""Generates completions of dialogues with vLLM on Ray Data.

One stream: batches of requests → render and tokenize → engine → finish → shard. A few rows go to the engine
together and come back together, as a batch holds its place until its slowest row ends. They are written in
shards of some MB. The driver holds the rows of one shard, however many there are.

The first rows of a model that has not worked before are the canary: if all of them fail, or an engine cannot
start or keeps dying, the job ends with the reason instead of working through the rest.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError, ModelError
from safe_r1.inference.engine import engine_arguments, engine_place
from safe_r1.inference.placement import configure_data, release
from safe_r1.inference.processor import Dispatch, make_processor
from safe_r1.inference.recovery import recovering
from safe_r1.inference.rendering import RenderBatches, Renderer
from safe_r1.inference.requests import BatchCounts, EngineResult, RequestBatch, Sampling
from safe_r1.inference.shard_buffer import ShardBuffer
from safe_r1.models.registry import Variant
from safe_r1.records.text import clean
from safe_r1.resources import Device
from safe_r1.runs import Row

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.util.placement_group import PlacementGroup

Finished = TypeVar("Finished")
"""A caller's form of a result, which it writes."""
RenderStage = Callable[[Mapping[str, Sequence[Any]]], Iterator[pa.Table]]
"""The stage before the engine: from the rows that a stream begins with to tables of rendered requests."""

_CANARY_ROWS = 16
# What keeps up with an engine.
_RENDERING_CPUS = 0.5


@dataclass(frozen=True)
class EngineSpec:
    """What starts an engine.

    Attributes:
        variant: The model.
        engine: Engine settings.
        device: Where the engine runs.
        sampling: Sampling settings that all its requests share.
    """

    variant: Variant
    engine: EngineConfig
    device: Device
    sampling: Sampling


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
    configure_data(engine.start_timeout_s)
    groups: list[PlacementGroup] = []
    canary = Canary(variant.name, sum(batch.num_rows for batch in batches), is_alive=has_worked)

    blocks = complete(EngineSpec(variant, engine, device, sampling), batches, groups)
    yield from collect(blocks, canary, engine, groups, finish, write)


def complete(
    spec: EngineSpec,
    batches: Sequence[RequestBatch],
    groups: "list[PlacementGroup]",
    first: Iterable[pa.Table] | None = None,
) -> Iterator[pa.Table]:
    """What the engine's stage gives for all requests, also where engines lose their nodes.

    Args:
        spec: The engine.
        batches: The requests.
        groups: Receives the placement groups that are reserved.
        first: What a stream gives that was started before.

    Raises:
        EngineLostError: See ``recovering``.
    """

    def start(left: Sequence[RequestBatch]) -> Iterator[pa.Table]:
        items = [{"batch": pickle.dumps(batch)} for batch in left]
        return iter_blocks(make_stream(items, spec, groups))

    place = engine_place(engine_arguments(spec.variant, spec.engine, spec.device), spec.engine, spec.device)
    name = spec.variant.name
    return recovering(name, start, batches, groups, place, spec.engine.max_restarts, first)


def collect(
    blocks: Iterable[pa.Table],
    canary: "Canary",
    engine: EngineConfig,
    groups: "list[PlacementGroup]",
    finish: Callable[[EngineResult], Finished],
    write: Callable[[Sequence[Finished]], None],
) -> Iterator[BatchCounts]:
    """Write the results of an engine's stream, and release its placement groups at the end.

    Args:
        blocks: What the engine's stage gives; its errors are those of the engine.
        canary: Checks the first rows.
        engine: Engine settings.
        groups: Placement groups that the stream's start has reserved by then.
        finish: See ``generate``, as for the next and the errors.
        write: Writes some rows as one shard.
    """
    from ray.exceptions import GetTimeoutError, RayError

    try:
        with ShardBuffer(write, engine.shard_mib, engine.shard_age_s) as buffer:
            for block in blocks:
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
        raise engine_error(canary.variant, engine.max_restarts, error) from error
    finally:
        release(groups)


@dataclass
class Canary:
    """Ends a job whose first rows all fail.

    Attributes:
        variant: Name of the model.
        num_rows: All rows of the stream.
        is_alive: Whether one has succeeded.
        num_seen: Rows so far.
    """

    variant: str
    num_rows: int
    is_alive: bool
    num_seen: int = 0

    def check(self, results: Sequence[EngineResult]) -> None:
        """Count some rows.

        Raises:
            ModelError: Every one of the first rows failed.
        """
        self.num_seen += len(results)
        self.is_alive = self.is_alive or any(result["error"] is None for result in results)
        if not self.is_alive and self.num_seen >= min(_CANARY_ROWS, self.num_rows):
            raise ModelError(
                f"{self.variant}: every one of the first {self.num_seen} rows failed: {results[0]['error']}"
            )


def make_stream(
    items: Sequence[Row],
    spec: EngineSpec,
    groups: "list[PlacementGroup]",
    stage: Callable[[RenderBatches], RenderStage] = lambda render: render,
) -> "Dataset":
    """The requests on their way through the engine; nothing runs before it is read.

    Args:
        items: What the first stage is given, row by row: ``{"batch": a pickled RequestBatch}``.
        spec: The engine.
        groups: Receives the placement groups that its start reserves.
        stage: The first stage, made of the one that renders such rows.
    """
    import ray
    from ray.data import TaskPoolStrategy

    variant = spec.variant
    engine = spec.engine
    arguments = engine_arguments(variant, engine, spec.device)
    sizes = dispatch(arguments["max_num_seqs"], engine.batch_size)
    processor = make_processor(variant, engine, spec.device, sizes, groups)
    context = arguments["max_model_len"]
    renderer = Renderer(variant, spec.sampling, context, engine.trust_remote_code)
    # Ray Data runs no stage before the engine has started: meanwhile the workers can import what they need.
    for _ in range(engine.replicas):
        ray.remote(num_cpus=_RENDERING_CPUS)(Renderer.load).remote(renderer)
    rendered = ray.data.from_items(list(items), override_num_blocks=len(items)).map_batches(
        # Ray's protocol does not know the types of generators.
        stage(RenderBatches(renderer, processor.DATA_COLUMN)),  # pyright: ignore[reportArgumentType]
        batch_size=1,
        num_cpus=_RENDERING_CPUS,
        # Each further worker would import all libraries again.
        compute=TaskPoolStrategy(size=engine.replicas),
    )
    # Joined with the stage before by Ray Data: it costs no task of its own.
    return processor(rendered.repartition(target_num_rows_per_block=engine.batch_size))


def iter_blocks(dataset: "Dataset") -> Iterator[pa.Table]:
    """What a stream gives, as soon as it is finished; reading it starts the stream."""
    # Without prefetching: rows are reported, and the canary checked, as soon as they are finished.
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def read_results(block: pa.Table) -> list[EngineResult]:
    """The results in a block of the engine's stage, whose one column holds structs."""
    column = block.column(0).combine_chunks()
    # Without the engine's further fields, such as token ids, which can be larger than the text.
    names = {field.name for field in column.type}
    kept = [name for name in _KEPT if name in names]
    return list(map(read_result, pa.table({name: column.field(name) for name in kept}).to_pylist()))


_KEPT = (
    "key",
    "prompt_tokens",
    "prefix",
    "max_tokens",
    "num_generated_tokens",
    "generated_text",
    "__inference_error__",
)


def read_result(row: Row) -> EngineResult:
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
        "text": "" if error else (row.get("prefix") or "") + clean(row["generated_text"]),
        "finish_reason": reason,
        "error": error,
        "parts": None,
        "blocked": None,
        "served_by": None,
    }


def engine_error(name: str, max_restarts: int, error: BaseException) -> EngineLostError | ModelError:
    """What an error of Ray's says of the engine of a model, to be raised from it."""
    kind = EngineLostError if is_loss(error) else ModelError
    return kind(
        f"{name}: the engine could not start or died more than {max_restarts} times: {last_line(error)}; "
        "the log holds the engine's own messages"
    )


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
