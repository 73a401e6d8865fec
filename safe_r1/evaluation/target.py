"""What is evaluated: a model on an engine of the cluster, or one behind a URL. The job treats both alike."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

from safe_r1.evaluation.given import GivenTarget
from safe_r1.evaluation.journal import Journal, journal_folder
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import BenchmarkRow, RequestKey
from safe_r1.evaluation.run_rows import CountTokens, Totals
from safe_r1.inference.batch import generate
from safe_r1.inference.device import MAX_PARAMS_B_ON_CPU, pick_device
from safe_r1.inference.engine import describe_capacity, engine_arguments, resolve_engine
from safe_r1.inference.kv_cache import parallel_sizes
from safe_r1.inference.remote import ask, make_endpoints
from safe_r1.inference.reply_cache import NO_OVERHEAD, Overhead, ReplyCache
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, RequestBatch
from safe_r1.inference.spending import Spending, estimate_tokens
from safe_r1.models.chat import load_tokenizer, render
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.provenance import versions
from safe_r1.resources import Cluster, Device
from safe_r1.runs import JsonObject, RunFolder, read_table
from safe_r1.schema import Completion, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Finish = Callable[[EngineResult], BenchmarkRow[Completion]]
WriteRows = Callable[[Sequence[BenchmarkRow[Completion]]], None]


class Target(Protocol):
    """What the job asks of the evaluated model."""

    @property
    def rows_per_batch(self) -> int:
        """Rows of the batches that ``complete`` is given, at most."""
        ...

    def start(self, cluster: Cluster) -> str:
        """Check that it can be used from this cluster; gives the name of its device.

        Raises:
            SafeR1Error: It cannot.
        """
        ...

    def fingerprint(self, benchmark: str) -> JsonObject:
        """What else could change its completions on a benchmark: engine, context, versions."""
        ...

    def complete(
        self, batches: Sequence[RequestBatch], finish: Finish, write: WriteRows
    ) -> Iterator[BatchCounts]:
        """Complete the requests, in about this order; yields counts as rows are finished."""
        ...

    def token_counter(self) -> CountTokens | None:
        """Counts the tokens of reasonings; None where they cannot be counted."""
        ...

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """Entries of ``run.json`` that are known at the end."""
        ...

    def finished(self, benchmark: str) -> None:
        """The results of a benchmark are published."""
        ...

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """A prompt as the model gets it, and its length in words."""
        ...

    def resources(self, requests: Sequence[Request], completion_tokens: Mapping[str, int]) -> str:
        """What a run takes, in one line.

        Args:
            requests: What is asked.
            completion_tokens: Mean length of a completion by the request's key.
        """
        ...

    def capacity(self) -> list[str]:
        """What an engine holds at once, a line for each device that may be chosen."""
        ...


def make_target(plan: EvaluationPlan) -> Target:
    """The target of a plan; connects to nothing."""
    if plan.variant.is_given:
        return GivenTarget(plan)
    endpoint = plan.variant.endpoint
    return EndpointTarget(plan, endpoint) if endpoint else EngineTarget(plan)


@dataclass
class EngineTarget:
    """A model on vLLM in the cluster."""

    plan: EvaluationPlan
    device: Device = "cpu"
    # The engine's first rows wait until a batch is rendered.
    rows_per_batch: int = 256

    def __post_init__(self) -> None:
        self._engine = self.plan.engine

    def start(self, cluster: Cluster) -> str:
        """Chooses the device, and checks that the cluster holds the model."""
        plan = self.plan
        self.device = pick_device(plan.variant, plan.config.engine.device, cluster.gpu_total)
        self._engine = resolve_engine(plan.variant, plan.engine, self.device, cluster)
        return self.device

    def fingerprint(self, benchmark: str) -> JsonObject:
        """The engine's settings, with the context that the benchmark itself needs."""
        plan = self.plan
        arguments = engine_arguments(plan.variant, self._engine, self.device)
        names = ["dtype", "tensor_parallel_size", "pipeline_parallel_size"]
        # Only where it is used: it came later, and the others' runs can still be resumed.
        names += [name for name in ("decode_context_parallel_size",) if name in arguments]
        return {
            # It may be evaluated alone now, and together with others later.
            "engine": {
                "device": self.device,
                "max_model_len": plan.context(benchmark),
                **{name: arguments[name] for name in names},
                **plan.config.engine.extra,
            },
            "versions": versions(("safe_r1", "vllm", "transformers", "torch")),
        }

    def complete(
        self, batches: Sequence[RequestBatch], finish: Finish, write: WriteRows
    ) -> Iterator[BatchCounts]:
        """Generates on Ray Data."""
        plan = self.plan
        return generate(batches, plan.variant, self._engine, self.device, plan.sampling, finish, write)

    def token_counter(self) -> CountTokens:
        """The model's tokenizer."""
        variant = self.plan.variant
        return TokenCounter(variant.source, variant.revision, self.plan.config.engine.trust_remote_code)

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """None: all is known at the start."""
        return {}

    def finished(self, benchmark: str) -> None:
        """Nothing is left behind."""

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The rendered text with its special tokens."""
        tokenizer = self._tokenizer()
        tokens, _ = render(messages, self.plan.variant.prompt_format, tokenizer)
        return str(tokenizer.decode(tokens)), f"{len(tokens)} tokens"

    def resources(self, requests: Sequence[Request], completion_tokens: Mapping[str, int]) -> str:
        """Size of the model, and the engines."""
        variant, engine = self.plan.variant, self.plan.config.engine
        num_gpus = parallel_sizes(variant, engine, "gpu").num_gpus
        return (
            f"{variant.name}, {variant.params_b:g} B parameters, weights {variant.weights_gib():.1f} GiB; "
            f"{engine.replicas} engine(s) of {num_gpus} GPU(s) of {variant.gpu_gb} GB, or CPU for up to "
            f"{MAX_PARAMS_B_ON_CPU:g} B parameters"
        )

    def capacity(self) -> list[str]:
        """What an engine's key-value cache holds on each device that may be chosen."""
        return describe_capacity(self.plan.variant, self.plan.engine)

    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        variant = self.plan.variant
        return load_tokenizer(variant.source, variant.revision, self.plan.config.engine.trust_remote_code)


@dataclass
class EndpointTarget:
    """A model behind a URL."""

    plan: EvaluationPlan
    entry: EndpointEntry
    rows_per_batch: int = 256
    _adaptations: dict[str, str] = field(default_factory=dict)
    _recorded: tuple[int, Overhead] = (0, NO_OVERHEAD)

    def start(self, cluster: Cluster) -> str:
        """Checks the settings; whether the endpoint answers, its first row shows."""
        make_endpoints(self.entry, self.plan.sampling)
        return "endpoint"

    def fingerprint(self, benchmark: str) -> JsonObject:
        """Nothing of this machine: the endpoint's identity is that of the variant's weights."""
        return {"engine": {"device": "endpoint"}, "versions": versions(("safe_r1",))}

    def complete(
        self, batches: Sequence[RequestBatch], finish: Finish, write: WriteRows
    ) -> Iterator[BatchCounts]:
        """Asks the endpoint; what it refused to take is recorded even if the job ends early."""
        requests = [request for batch in batches for request in batch.read()]
        before = {name: _recorded_overhead(self.plan.folders[name]) for name in self.plan.samples}
        self._recorded = (0, sum(before.values(), NO_OVERHEAD))
        spending = Spending(self.entry, *self._tokens_so_far(), self._recorded[1])
        endpoints = make_endpoints(self.entry, self.plan.sampling)
        journal = Journal({name: self._cache(name) for name in self.plan.samples})
        try:
            for counts in ask(requests, endpoints, spending, journal, self._adaptations, finish, write):
                # Before the job goes on: what is killed then is not paid unseen.
                self._record(requests, spending, before)
                yield counts
        finally:
            self._record(requests, spending, before)

    def _tokens_so_far(self) -> tuple[int, int]:
        """Prompt and completion tokens of the rows that are written."""
        names = ["prompt_tokens", "completion_tokens"]
        tables = [
            read_table(shard, columns=names)
            for folder in self.plan.folders.values()
            for shard in folder.shards("completions")
        ]
        prompt, completion = (
            sum(int(table.column(name).to_numpy().sum()) for table in tables) for name in names
        )
        return prompt, completion

    def _record(
        self, requests: Sequence[Request], spending: Spending, before: Mapping[str, Overhead]
    ) -> None:
        """Keep, with each benchmark, what was not sent as configured and what was taken beyond its rows."""
        state = (len(self._adaptations), spending.overhead)
        if state == self._recorded:
            return
        self._recorded = state
        overheads = dict(before)
        for key, overhead in spending.overheads.items():
            overheads[RequestKey.from_text(key).benchmark] += overhead
        for name in {RequestKey.from_text(request.key).benchmark for request in requests}:
            folder = self.plan.folders[name]
            info = folder.read_json("run.json") or {}
            recorded: JsonObject = info.get("endpoint", {})
            adapted = recorded.get("adapted", {}) | self._adaptations
            found = recorded | {"adapted": adapted, "overhead": asdict(overheads[name])}
            folder.write_json("run.json", info | {"endpoint": found})

    def token_counter(self) -> None:
        """None: an endpoint does not count the reasoning apart."""

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """Who answered, what it took, and what was sent in another form."""
        recorded = (self.plan.folders[benchmark].read_json("run.json") or {}).get("endpoint", {})
        overhead = _recorded_overhead(self.plan.folders[benchmark])
        return {
            "endpoint": {
                "model": self.entry.model,
                "host": self.entry.host,
                "served_by": totals.served_by,
                "seeded": self.plan.sampling.temperature > 0,
                "adapted": recorded.get("adapted", {}) | self._adaptations,
                "prompt_tokens": totals.prompt_tokens,
                "completion_tokens": totals.completion_tokens,
                "overhead": asdict(overhead),
                "cost": Spending(self.entry, totals.prompt_tokens, totals.completion_tokens, overhead).cost,
            }
        }

    def finished(self, benchmark: str) -> None:
        """Its answers are in the run folder: the journal is not needed any more."""
        shutil.rmtree(journal_folder(self.plan.folders[benchmark]), ignore_errors=True)

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The dialogue by turns: the endpoint renders it."""
        request = Request("", list(messages), 0, 0)
        prompt_tokens, _ = estimate_tokens([request], {"": 0})
        return "\n".join(
            f"{turn['role']}: {turn['content']}" for turn in messages
        ), f"about {prompt_tokens} tokens"

    def capacity(self) -> list[str]:
        """None: the endpoint's own."""
        return []

    def resources(self, requests: Sequence[Request], completion_tokens: Mapping[str, int]) -> str:
        """Tokens, and with prices the cost."""
        entry = self.entry
        prompts, completions = estimate_tokens(requests, completion_tokens)
        cost = Spending(entry, prompts, completions).cost
        price = "no prices set" if cost is None else f"about {cost:.4g} at the prices set"
        limit = f", at most {entry.max_cost:g}" if entry.max_cost is not None else ""
        lanes = len(entry.urls) * len(entry.api_key_envs)
        return (
            f"{entry.model} at {entry.host}, {lanes} × {entry.concurrency} requests at once; "
            f"{len(requests):,} rows, about {prompts:,} prompt and {completions:,} completion tokens; "
            f"{price}{limit}"
        )

    def _cache(self, benchmark: str) -> ReplyCache:
        return ReplyCache(journal_folder(self.plan.folders[benchmark]), "journal")


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens with a model's tokenizer; each worker loads it once."""

    source: str
    revision: str | None
    trust_remote_code: bool

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Lengths of texts in tokens."""
        tokenizer = load_tokenizer(self.source, self.revision, self.trust_remote_code)
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _recorded_overhead(folder: RunFolder) -> Overhead:
    recorded = (folder.read_json("run.json") or {}).get("endpoint", {})
    return Overhead(**recorded.get("overhead", {}))
