"""The plan of an evaluation, made and checked before anything is started or written."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace

from safe_r1.benchmarks import Benchmark, get_benchmarks, require_given_answers
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.benchmarks.selection import select
from safe_r1.config import EngineConfig, EvaluateConfig
from safe_r1.config.adaptive import AdaptiveConfig
from safe_r1.errors import ConfigError, DataError
from safe_r1.evaluation.adaptive_plan import AttackerPlan, plan_attacker, searches_of
from safe_r1.evaluation.attack_plan import choose, is_attacked, load_all, without_untaken
from safe_r1.inference.memory import cpu_kv_cache_gib, sequence_tokens
from safe_r1.inference.requests import Sampling
from safe_r1.judge.factory import JudgePlan, check_kind, plan_judge
from safe_r1.metrics.strata import Population
from safe_r1.models.checkpoints import prepare
from safe_r1.models.endpoint_entry import with_overrides
from safe_r1.models.given import GIVEN
from safe_r1.models.registry import Variant, get_variant
from safe_r1.models.thinking import ThinkingTags
from safe_r1.runs import JsonObject, RunFolder
from safe_r1.schema import JUDGED_PARTS, Sample, Task

Fingerprint = JsonObject
"""Everything that could change a result, as nested plain values."""


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that determines an evaluation.

    Attributes:
        config: The settings.
        variant: The model, its source ready to load.
        judge: The judge; None if no sample needs one.
        benchmarks: The benchmarks by name.
        samples: Questions by benchmark.
        fingerprints: What could change a result, by benchmark.
        folders: Where each benchmark's results go.
        populations: All questions of each benchmark, where a limit may leave some out.
        attacker: The model that writes the prompts of attacks that adapt; None where none needs it.
    """

    config: EvaluateConfig
    variant: Variant
    judge: JudgePlan | None
    benchmarks: dict[str, Benchmark]
    samples: Mapping[str, Sequence[Sample]]
    fingerprints: dict[str, Fingerprint]
    folders: dict[str, RunFolder]
    populations: Mapping[str, Population] = field(default_factory=dict)
    attacker: AttackerPlan | None = None

    @property
    def sampling(self) -> Sampling:
        """Sampling settings, the variant's where the configuration leaves them open."""
        generation = self.config.generation
        return Sampling(
            self.variant.temperature if generation.temperature is None else generation.temperature,
            self.variant.top_p if generation.top_p is None else generation.top_p,
        )

    @property
    def thinking_tags(self) -> ThinkingTags | None:
        """See ``Variant.thinking_tags``."""
        return self.variant.thinking_tags(self.config.generation.thinking_tags)

    @functools.cached_property
    def searches(self) -> dict[str, AdaptiveConfig]:
        """Settings of attacks that adapt, by benchmark."""
        return searches_of(self.benchmarks)

    @functools.cached_property
    def tasks(self) -> dict[str, list[Task]]:
        """Tasks of the questions by benchmark."""
        return {name: _tasks_of(samples) for name, samples in self.samples.items()}

    def max_tokens(self, benchmark: str, task: Task) -> int:
        """Maximum length of a completion of a benchmark's question in tokens."""
        generation = self.config.generation
        if generation.max_tokens:
            return generation.max_tokens
        if self.benchmarks[benchmark].workload.is_long:
            return generation.max_tokens_reasoning or self.variant.max_tokens_reasoning
        if task == "mcq":
            return generation.max_tokens_mcq or self.variant.max_tokens_mcq
        return generation.max_tokens_refusal or self.variant.max_tokens_refusal

    def repeats(self, benchmark: str) -> int:
        """Completions of every question of a benchmark."""
        return self.config.repeats or self.benchmarks[benchmark].repeats

    def context(self, benchmark: str) -> int:
        """Tokens of prompt and completion together that a benchmark needs."""
        is_long = self.benchmarks[benchmark].workload.is_long
        longest = self.variant.context_reasoning if is_long else self.variant.context
        return self.config.engine.max_model_len or longest

    @functools.cached_property
    def engine(self) -> EngineConfig:
        """Engine settings, with the context and the lengths of sequences that all benchmarks need."""
        longest = max(self.context(name) for name in self.samples)
        engine = self.config.engine.model_copy(update={"max_model_len": longest})
        # The longest ones are decoded together, whatever the others need.
        tokens = engine.tokens_per_sequence or max(map(self._tokens_per_sequence, self.samples))
        engine = engine.model_copy(update={"tokens_per_sequence": tokens})
        num_rows = sum(len(samples) * self.repeats(name) for name, samples in self.samples.items())
        kv_cache_gib = cpu_kv_cache_gib(self.variant, engine, num_rows=num_rows)
        return engine.model_copy(update={"cpu_kv_cache_gib": kv_cache_gib})

    def _tokens_per_sequence(self, benchmark: str) -> int:
        """Expected length of a sequence of a benchmark that is being decoded."""
        max_tokens = max(self.max_tokens(benchmark, task) for task in self.tasks[benchmark])
        return sequence_tokens(max_tokens, self.benchmarks[benchmark].workload.completion_tokens)


def make_plan(config: EvaluateConfig) -> EvaluationPlan:
    """Resolve names, load and check all data; starts and writes nothing.

    Raises:
        ConfigError, DataError, ModelError, JudgeError, SandboxError: See the parts.
    """
    for kind in (config.judge.kind, *config.further_judges):
        check_kind(kind)
    named = get_variant(config.variant)
    if named.is_given:
        _check_given(config)
    benchmarks = get_benchmarks(config.benchmarks, config)
    if config.answer_key and not any(benchmark.takes_answer_key for benchmark in benchmarks.values()):
        raise ConfigError(
            f"--answer-key: the results of {', '.join(benchmarks)} are part of the data; leave the key out"
        )
    if is_attacked(benchmarks) and named.is_given:
        raise ConfigError(
            "--attack: a file has answers to the questions as they stand; give a model as --variant"
        )
    # Data first: a missing file should not wait for the download of a model.
    loaded = load_all(benchmarks, config, lambda benchmark: _load(benchmark, config))
    samples = choose(
        loaded,
        benchmarks,
        config,
        lambda each: select(each, config.limit, config.generation.seed, config.swap_options),
    )
    benchmarks = {name: benchmarks[name] for name in samples}
    for benchmark in benchmarks.values():
        benchmark.check_machine()
    attacker = plan_attacker(config, searches_of(benchmarks))
    variant, identity = _prepare(named, config)
    benchmarks = without_untaken(benchmarks, config, variant)
    samples = {name: samples[name] for name in benchmarks}
    if variant.is_given:
        require_given_answers(benchmarks.values())
    # No judge for tasks without one: a run of mathematics needs no judge's model or key.
    is_judged = {name for name, chosen in samples.items() if any(map(JUDGED_PARTS.get, _tasks_of(chosen)))}
    judge = plan_judge(config.judge) if is_judged else None
    if judge:
        judge.check_tasks({task for name in is_judged for task in _tasks_of(samples[name])})
    populations = {name: Population.of(loaded[name]) for name in samples if config.limit is not None}
    plan = EvaluationPlan(config, variant, judge, benchmarks, samples, {}, {}, populations, attacker)
    for name in benchmarks:
        plan.fingerprints[name] = _fingerprint(plan, name, identity, judge if name in is_judged else None)
        plan.folders[name] = RunFolder.locate(config.output, config.run, variant.name, name)
    return plan


def _check_given(config: EvaluateConfig) -> None:
    """Check that given answers are not counted several times, as answers to another order of options, or as
    the beginning of others.

    Raises:
        ConfigError: They would be.
    """
    flags = {
        "--repeats": (config.repeats or 1) > 1,
        "--swap-options": config.swap_options,
        "--finish-answers": config.finish_answers,
    }
    for flag in (flag for flag, is_set in flags.items() if is_set):
        raise ConfigError(
            f"{flag}: a file has one given answer to each question as it stands; leave the flag out, or give "
            "a model as --variant"
        )


def _prepare(named: Variant, config: EvaluateConfig) -> tuple[Variant, str]:
    """The variant with all that it needs, and its identity."""
    if named.endpoint is None:
        if given := sorted(config.endpoint.model_fields_set):
            raise ConfigError(f"endpoint.{given[0]}: {named.name} is not behind a URL; leave the setting out")
        if named.is_given:
            return named, GIVEN
        return prepare(named, config.engine.trust_remote_code)
    entry = with_overrides(named.endpoint, config.endpoint)
    return replace(named, endpoint=entry), entry.identity


def _tasks_of(samples: Sequence[Sample]) -> list[Task]:
    if isinstance(samples, SampleTable):
        return samples.column("task").unique().to_pylist()
    return list(dict.fromkeys(sample.task for sample in samples))


def _load(benchmark: Benchmark, config: EvaluateConfig) -> Sequence[Sample]:
    """All samples of a benchmark.

    Raises:
        DataError: They cannot be read, or there are none.
    """
    samples = benchmark.load(config.data, _key_of(benchmark, config))
    if not samples:
        raise DataError(f"{benchmark.name}: no questions; expected at least one")
    return samples


def _fingerprint(plan: EvaluationPlan, name: str, weights: str, judge: JudgePlan | None) -> Fingerprint:
    """What could change a result on one benchmark, apart from what the target adds when it is started."""
    config = plan.config
    benchmark = plan.benchmarks[name]
    samples = plan.samples[name]
    key = benchmark.key_identity(_key_of(benchmark, config))
    return {
        "data": {
            "sha256": benchmark.data_hash(config.data),
            "answer_key": key.sha256,
            "answer_key_name": key.name,
        },
        "samples": {"num": len(samples), "limit": config.limit, "swap_options": config.swap_options},
        "variant": {"name": plan.variant.name, "style": plan.variant.style, "weights": weights},
        "generation": {
            **asdict(plan.sampling),
            "max_tokens": sorted({plan.max_tokens(name, task) for task in plan.tasks[name]}),
            # Only where there are some: runs of before can still be resumed.
            **({"thinking_tags": list(astuple(plan.thinking_tags))} if plan.thinking_tags else {}),
        },
        "repeats": plan.repeats(name),
        "seed": config.generation.seed,
        # Only where it is used, as the tags above.
        **({"finish_answers": True} if config.finish_answers and "mcq" in plan.tasks[name] else {}),
        # As the tags above.
        **_attacker_of(plan, name),
        # Only where a judge is needed: another judge does not make multiple-choice results another run.
        "judge": {"name": judge.name, "identity": judge.identity, "parts": list(config.judge.parts)}
        if judge
        else {},
    }


def _attacker_of(plan: EvaluationPlan, name: str) -> JsonObject:
    search = plan.searches.get(name)
    if search is None or not search.needs_attacker or plan.attacker is None:
        return {}
    return {"attacker": plan.attacker.fingerprint}


def _key_of(benchmark: Benchmark, config: EvaluateConfig) -> str | None:
    """The configured answer key, for a benchmark that takes one."""
    return config.answer_key if benchmark.takes_answer_key else None
