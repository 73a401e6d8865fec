"""What a run is, decided before anything is started or written."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from safe_r1.benchmarks import Benchmark, expand, get_benchmark
from safe_r1.benchmarks.chisafetybench import ChiSafetyBench
from safe_r1.benchmarks.gpqa import as_asked
from safe_r1.benchmarks.selection import select
from safe_r1.config import EngineConfig, EvaluateConfig
from safe_r1.errors import ConfigError
from safe_r1.evaluation.scoring import judge_name
from safe_r1.inference.batch import Sampling
from safe_r1.inference.engine import engine_arguments
from safe_r1.judge.factory import plan_judge
from safe_r1.judge.prompt import PROMPT_SHA256
from safe_r1.models.chat import load_tokenizer, render
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.provenance import versions
from safe_r1.resources import MAX_PARAMS_B_ON_CPU, Device
from safe_r1.runs import RunFolder
from safe_r1.sandbox.container import check_sandbox
from safe_r1.schema import JUDGED_TASKS, REASONING_TASKS, Sample


@dataclass(frozen=True)
class Plan:
    """Everything a run is, decided before anything is started or written.

    Attributes:
        config: The settings.
        variant: The model, its source ready to load.
        judge_variant: The model that judges in the cluster, or None.
        samples: Questions by benchmark.
        fingerprints: What could change a result, by benchmark.
        folders: Where each benchmark's results go.
    """

    config: EvaluateConfig
    variant: Variant
    judge_variant: Variant | None
    samples: dict[str, list[Sample]]
    fingerprints: dict[str, dict[str, Any]]
    folders: dict[str, RunFolder]

    @property
    def sampling(self) -> Sampling:
        """Sampling settings, the variant's where the configuration leaves them open."""
        generation = self.config.generation
        return Sampling(
            self.variant.temperature if generation.temperature is None else generation.temperature,
            self.variant.top_p if generation.top_p is None else generation.top_p,
        )

    @property
    def judge(self) -> str:
        """Short name of the judge."""
        judge = self.judge_variant
        return judge_name(self.config.judge, judge.name if judge else self.config.judge.model)

    def max_tokens(self, sample: Sample) -> int:
        """Longest completion of a sample in tokens."""
        generation = self.config.generation
        if generation.max_tokens:
            return generation.max_tokens
        if sample.task in REASONING_TASKS:
            return generation.max_tokens_reasoning or self.variant.max_tokens_reasoning
        if sample.task == "mcq":
            return generation.max_tokens_mcq or self.variant.max_tokens_mcq
        return generation.max_tokens_refusal or self.variant.max_tokens_refusal

    def repeats(self, benchmark: str) -> int:
        """Completions of every question of a benchmark."""
        return self.config.repeats or get_benchmark(benchmark, self.config).repeats

    def context(self, benchmark: str) -> int:
        """Tokens of prompt and completion together that a benchmark needs."""
        is_long = any(sample.task in REASONING_TASKS for sample in self.samples[benchmark])
        longest = self.variant.context_reasoning if is_long else self.variant.context
        return self.config.engine.max_model_len or longest

    @property
    def engine(self) -> EngineConfig:
        """Engine settings, with a context that is enough for all benchmarks."""
        longest = max(self.context(name) for name in self.samples)
        return self.config.engine.model_copy(update={"max_model_len": longest})

    def load_tokenizer(self) -> Any:
        """The variant's tokenizer."""
        return load_tokenizer(
            self.variant.source, self.variant.revision, self.config.engine.trust_remote_code
        )


def make_plan(config: EvaluateConfig) -> Plan:
    """Resolve names, load and check all data; starts and writes nothing.

    Raises:
        ConfigError, DataError, ModelError, SandboxError: See the parts.
    """
    named = get_variant(config.variant)
    benchmarks = [get_benchmark(name, config) for name in dict.fromkeys(expand(config.benchmarks))]
    if config.answer_key and not any(isinstance(benchmark, ChiSafetyBench) for benchmark in benchmarks):
        raise ConfigError(
            f"--answer-key: {', '.join(b.name for b in benchmarks)} holds its results itself; leave the key out"
        )
    samples = {
        benchmark.name: select(
            benchmark.load(config.data, _key_of(benchmark, config)),
            config.limit,
            config.generation.seed,
            config.swap_options,
        )
        for benchmark in benchmarks
    }
    variant, identity = prepare(named)
    asked = {sample.task for chosen in samples.values() for sample in chosen}
    if "code" in asked:
        check_sandbox()  # the workers' machines are like this one, and find out by themselves
    judge_variant = None
    judge_identity: dict[str, Any] = {
        "kind": config.judge.kind,
        "model": config.judge.model,
        "parts": list(config.judge.parts),
    }
    if not asked & JUDGED_TASKS:
        judge_identity = {}
    elif config.judge.kind == "llm":
        judge_variant, weights = prepare(
            get_variant(config.judge.model) if config.judge.model else DEFAULT_JUDGE
        )
        judge_identity |= {"weights": weights, "max_tokens": config.judge.max_tokens, "prompt": PROMPT_SHA256}
    elif config.judge.kind == "lexicon":
        judge_identity["rules"] = plan_judge(config.judge).label
    else:
        judge_identity |= {"max_tokens": config.judge.max_tokens, "prompt": PROMPT_SHA256}
    plan = Plan(config, variant, judge_variant, samples, {}, {})
    for benchmark in benchmarks:
        key = benchmark.key_identity(_key_of(benchmark, config))
        plan.fingerprints[benchmark.name] = {
            "data": {
                "sha256": benchmark.data_hash(config.data),
                "answer_key": key.sha256,
                "answer_key_name": key.name,
            },
            "samples": {
                "num": len(samples[benchmark.name]),
                "limit": config.limit,
                "swap_options": config.swap_options,
            },
            "variant": {"name": variant.name, "style": variant.style, "weights": identity},
            "generation": {
                **asdict(plan.sampling),
                "max_tokens": sorted({plan.max_tokens(s) for s in samples[benchmark.name]}),
            },
            "repeats": plan.repeats(benchmark.name),
            "seed": config.generation.seed,
            "judge": judge_identity if any(s.task in JUDGED_TASKS for s in samples[benchmark.name]) else {},
        }
        plan.folders[benchmark.name] = RunFolder.locate(
            config.output, config.run, variant.name, benchmark.name
        )
    return plan


def _key_of(benchmark: Benchmark, config: EvaluateConfig) -> str | None:
    """The answer key that was given, for the benchmark that takes one."""
    return config.answer_key if isinstance(benchmark, ChiSafetyBench) else None


def finish_plan(plan: Plan, device: Device) -> None:
    """Add what depends on the device, and the versions, to the fingerprints."""
    arguments = engine_arguments(plan.variant, plan.engine, device)
    engine = {name: arguments[name] for name in ("dtype", "tensor_parallel_size", "pipeline_parallel_size")}
    for name, fingerprint in plan.fingerprints.items():
        # What the benchmark needs, not what others beside it do: it may be asked alone, and with others
        # later.
        fingerprint["engine"] = {
            "device": device,
            "max_model_len": plan.context(name),
            **engine,
            **plan.config.engine.extra,
        }
        fingerprint["versions"] = versions(("safe_r1", "vllm", "transformers", "torch"))


def dry_run(config: EvaluateConfig, show: Callable[[str], None]) -> None:
    """Show the resolved settings, three rendered prompts and the resources; starts no engine and writes
    nothing.
    """
    plan = make_plan(config)
    show(config.model_dump_json(indent=1))
    tokenizer = plan.load_tokenizer()
    for name, samples in plan.samples.items():
        picks = [samples[0], samples[len(samples) // 2], samples[-1]]
        for sample in {sample.sample_id: sample for sample in picks}.values():
            tokens, _ = render(as_asked(sample, 0).messages, plan.variant.style, tokenizer)
            head = f"--- {sample.sample_id}: {len(tokens)} tokens, at most {plan.max_tokens(sample)} more"
            show(f"{head}\n{tokenizer.decode(tokens)}")
        folder = plan.folders[name]
        state = "complete" if folder.is_complete else "to do"
        show(f"--- {name}: {len(samples)} questions × {plan.repeats(name)} repeats → {folder.path} ({state})")
    variant = plan.variant
    gpus = (
        config.engine.tensor_parallel_size or variant.tensor_parallel_size
    ) * config.engine.pipeline_parallel_size
    show(
        f"--- resources: {variant.name}, {variant.params_b:g} B parameters, weights {variant.weights_gib():.1f} GiB; "
        f"{config.engine.replicas} engine(s) of {gpus} GPU(s) of {variant.gpu_gb} GB, or CPU for up to "
        f"{MAX_PARAMS_B_ON_CPU:g} B parameters; judge: {plan.judge}"
    )
