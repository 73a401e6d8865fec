"""A model on vLLM in the cluster as the target of an evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import has_completions
from safe_r1.evaluation.run_rows import CountTokens, Totals
from safe_r1.inference.batch import EngineSpec, generate
from safe_r1.inference.device import MAX_PARAMS_B_ON_CPU, pick_device
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines
from safe_r1.inference.engine import describe_capacity, engine_arguments, resolve_engine
from safe_r1.inference.kv_cache import parallel_sizes
from safe_r1.inference.memory import cpu_memory_gib, free_memory_gib
from safe_r1.inference.processor import preload
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, RequestBatch
from safe_r1.inference.shard_buffer import Finished
from safe_r1.models.chat import load_tokenizer, render
from safe_r1.provenance import versions
from safe_r1.resources import Cluster, Device
from safe_r1.runs import JsonObject
from safe_r1.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class EngineTarget:
    """A model on vLLM in the cluster."""

    plan: EvaluationPlan
    device: Device = "cpu"
    # The engine's first rows wait until a batch is rendered.
    rows_per_batch: int = 256
    continues: bool = True

    def __post_init__(self) -> None:
        self._engine = self.plan.engine

    @property
    def rows_at_once(self) -> int:
        """Slots of all its engines."""
        slots = int(engine_arguments(self.plan.variant, self._engine, self.device)["max_num_seqs"])
        return slots * self._engine.replicas

    @property
    def memory_gib(self) -> float:
        """That of an engine on CPU; memory of GPUs is told by the GPUs that are free."""
        if self.device == "gpu":
            return 0.0
        return cpu_memory_gib(self.plan.variant, self._engine, free_memory_gib())

    def preload(self) -> None:
        """Imports Ray Data and its stage for engines."""
        preload()

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
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
    ) -> Iterator[BatchCounts]:
        """Generates on Ray Data."""
        plan = self.plan
        has_worked = any(map(has_completions, plan.folders.values()))
        return generate(
            batches, plan.variant, self._engine, self.device, plan.sampling, finish, write, has_worked
        )

    @property
    def spec(self) -> EngineSpec:
        """The engine as ``start`` has chosen it."""
        return EngineSpec(self.plan.variant, self._engine, self.device, self.plan.sampling)

    def dialogues(self, benchmark: str, engines: DialogueEngines) -> CompleteAll:
        """On an engine that stays."""
        return engines.model(self.spec)

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

    def resources(self, rows: Iterable[tuple[Request, int]]) -> str:
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
