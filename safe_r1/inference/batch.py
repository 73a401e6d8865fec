"""Generates completions of dialogues with vLLM on Ray Data; the only importer of ``ray.data.llm``.

One stream: rows → render and tokenize (ours) → engine → finish → shard. Rendering is ours so that no second
BOS is added and serving gets the same tokens. Shards are written by the stream's own workers; the driver gets
counts only.

The first batch is the canary: if all its rows fail, or an engine cannot start or keeps dying, the job ends
with the reason instead of working through the rest.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, cast

import pyarrow as pa

from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError, ModelError
from safe_r1.inference.engine import engine_arguments, engine_bundles, engine_environment
from safe_r1.inference.placement import configure_data, placement, release
from safe_r1.models.chat import PLAIN_STOPS, load_tokenizer, render
from safe_r1.models.registry import Variant
from safe_r1.resources import Device
from safe_r1.runs import Row
from safe_r1.schema import Message

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.data.llm import Processor
    from ray.util.placement_group import PlacementGroup

Finished = TypeVar("Finished")
"""A caller's form of a result, which it writes."""

_REQUEST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("max_tokens", pa.int32()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Request:
    """One dialogue that the model continues.

    Attributes:
        key: Identity of the row, returned with its result.
        messages: The dialogue.
        max_tokens: Maximum length of the completion in tokens.
        seed: Of the sampler, for this row alone.
    """

    key: str
    messages: list[Message]
    max_tokens: int
    seed: int


class EngineResult(TypedDict):
    """The engine's result of one request.

    Attributes:
        key: The request's.
        prompt_tokens: Length of the rendered prompt in tokens.
        completion_tokens: Number of generated tokens.
        text: The completion, with the reasoning prefix of its prompt; empty where there is an error.
        finish_reason: ``stop`` or ``length``; None where there is an error.
        error: Why there is no completion.
        parts: Reasoning and answer where they are known apart from the text; else None.
        blocked, served_by: See ``Completion``; None for an engine.
    """

    key: str
    prompt_tokens: int
    completion_tokens: int
    text: str
    finish_reason: str | None
    error: str | None
    parts: tuple[str, str | None] | None
    blocked: str | None
    served_by: str | None


@dataclass(frozen=True)
class Sampling:
    """Sampling settings shared by all requests of a call."""

    temperature: float
    top_p: float


def row_seed(*parts: str | int) -> int:
    """A seed of 31 bits from what identifies a row: the same on every machine and in every order."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


class Renderer:
    """The preprocess stage: renders and tokenizes a request. Each worker loads the tokenizer once."""

    def __init__(self, variant: Variant, sampling: Sampling, context: int, trust_remote_code: bool):
        self.variant = variant
        self.sampling = sampling
        self.context = context
        self.trust_remote_code = trust_remote_code

    def __call__(self, row: Row) -> Row:
        """Adds ``tokenized_prompt``, ``sampling_params`` and what ``finish`` needs."""
        tokenizer = load_tokenizer(self.variant.source, self.variant.revision, self.trust_remote_code)
        tokens, prefix = render(list(row["messages"]), self.variant.prompt_format, tokenizer)
        # A prompt that fills the context is left to the engine, which rejects that row with both lengths.
        max_tokens = max(1, min(int(row["max_tokens"]), self.context - len(tokens)))
        params = {
            "max_tokens": max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
        }
        # Greedy sampling draws nothing: its rows are the same for every seed.
        if self.sampling.temperature > 0:
            params["seed"] = int(row["seed"])
        # A base model ends no turn: without these it writes the next turn of the dialogue itself.
        if self.variant.style == "plain":
            params["stop"] = list(PLAIN_STOPS)
        if stop_token_ids := self.variant.prompt_format.stop_token_ids:
            params["stop_token_ids"] = list(stop_token_ids)
        return {
            "key": row["key"],
            "tokenized_prompt": tokens,
            "sampling_params": params,
            "prompt_tokens": len(tokens),
            "prefix": prefix,
            "max_tokens": max_tokens,
        }


class Sink(Generic[Finished]):
    """The last stage: finishes the engine's results and writes a batch of them as one shard."""

    def __init__(
        self, finish: Callable[[EngineResult], Finished], write: Callable[[Sequence[Finished]], None]
    ):
        self.finish = finish
        self.write = write

    def __call__(self, batch: pa.Table) -> dict[str, list[int] | list[str]]:
        """Writes the batch; returns its numbers of rows, failed rows and tokens, and the first error."""
        results = [_result(row) for row in batch.to_pylist()]
        # Written here and not by the driver, which would hold every completion of a large run.
        self.write([self.finish(result) for result in results])
        errors = [result["error"] for result in results if result["error"]]
        tokens = sum(result["completion_tokens"] for result in results)
        return {
            "rows": [len(results)],
            "failed": [len(errors)],
            "tokens": [tokens],
            "error": [errors[0] if errors else ""],
        }


def _result(row: Row) -> EngineResult:
    """The result in a row of the engine stage."""
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


@dataclass(frozen=True)
class BatchCounts:
    """Counts of one finished batch."""

    rows: int
    failed: int
    tokens: int


def generate(
    requests: Sequence[Request],
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    sampling: Sampling,
    finish: Callable[[EngineResult], Finished],
    write: Callable[[Sequence[Finished]], None],
) -> Iterator[BatchCounts]:
    """Complete all requests; yields counts as batches are written.

    Args:
        requests: The rows; an empty list starts no engine.
        variant: The model.
        engine: Engine settings.
        device: Where the engine runs.
        sampling: Shared sampling settings.
        finish: Turns a result into what is written; must be picklable.
        write: Writes one batch of rows atomically; must be picklable and safe to repeat.

    Raises:
        ModelError: The engine cannot start, or fails every row of its first batch.
        EngineLostError: It keeps dying, or no machine came for it.
    """
    if not requests:
        return
    from ray.exceptions import GetTimeoutError, RayError

    configure_data(engine.start_timeout_s)
    groups: list[PlacementGroup] = []
    dataset = _processor(variant, engine, device, sampling, groups)(_dataset(requests, engine.batch_size))
    counts = dataset.map_batches(
        Sink(finish, write), batch_format="pyarrow", batch_size=None, **_light(engine)
    )
    is_canary = True
    try:
        # Without prefetching: each batch is reported, and the canary checked, as soon as it is finished.
        for batch in counts.iter_batches(batch_size=1, prefetch_batches=0):
            columns = cast(Mapping[str, Sequence[Any]], batch)
            batch_counts = BatchCounts(*(int(columns[name][0]) for name in ("rows", "failed", "tokens")))
            if is_canary and batch_counts.failed == batch_counts.rows:
                raise ModelError(
                    f"{variant.name}: every row of the first batch failed: {columns['error'][0]}"
                )
            is_canary = False
            yield batch_counts
    except (RayError, GetTimeoutError) as error:
        kind = EngineLostError if _is_loss(error) else ModelError
        raise kind(
            f"{variant.name}: the engine could not start or died more than {engine.max_restarts} times: "
            f"{_last_line(error)}; the log holds the engine's own messages"
        ) from error
    finally:
        release(groups)


def _dataset(requests: Sequence[Request], batch_size: int) -> "Dataset":
    """The requests as a Ray dataset with a block for each batch."""
    import ray

    rows: list[Row] = [
        {"key": r.key, "messages": r.messages, "max_tokens": r.max_tokens, "seed": r.seed} for r in requests
    ]
    # An explicit schema, as inferred types would depend on the rows.
    table = pa.Table.from_pylist(rows, schema=_REQUEST_SCHEMA)
    # One block a batch, or Ray Data would combine rows at will and write shards of other sizes.
    return ray.data.from_arrow([table.slice(start, batch_size) for start in range(0, len(rows), batch_size)])


def _is_loss(error: BaseException) -> bool:
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


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(error).__name__


# Without the engine's further columns, such as token ids, which can be larger than the text.
_KEPT = ("key", "prompt_tokens", "prefix", "max_tokens", "num_generated_tokens", "generated_text")


def _keep(row: Row) -> Row:
    return {name: row[name] for name in _KEPT}


def _processor(
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    sampling: Sampling,
    groups: "list[PlacementGroup]",
) -> "Processor":
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = engine_arguments(variant, engine, device)
    num_seqs = arguments["max_num_seqs"]
    config = vLLMEngineProcessorConfig(
        model_source=variant.source,
        engine_kwargs=arguments,
        runtime_env={"env_vars": engine_environment(variant, engine, device)},
        # Enough concurrent batches to fill the engine, and half as many more, so that the slowest row of a
        # batch does not leave it idle.
        batch_size=engine.batch_size,
        max_concurrent_batches=max(2, -(-num_seqs * 3 // (2 * engine.batch_size))),
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
    processor = build_processor(
        config,
        preprocess=Renderer(variant, sampling, arguments["max_model_len"], engine.trust_remote_code),
        postprocess=_keep,
        preprocess_map_kwargs=_light(engine),
        postprocess_map_kwargs=_light(engine),
    )
    for stage in processor.stages.values():
        # Ray Data restarts a dead actor without limit; an engine that keeps dying has to end the job.
        stage.map_batches_kwargs["max_restarts"] = engine.max_restarts
        if "ray_remote_args_fn" in stage.map_batches_kwargs:
            stage.map_batches_kwargs["ray_remote_args_fn"] = placement(
                engine_bundles(arguments, device), groups
            )
    return processor


def _light(engine: EngineConfig) -> dict[str, Any]:
    """Resources of the stages beside the engine.

    Half a CPU keeps up with an engine; each further worker would import all libraries again.
    """
    from ray.data import TaskPoolStrategy

    return {"num_cpus": 0.5, "compute": TaskPoolStrategy(size=engine.replicas)}
