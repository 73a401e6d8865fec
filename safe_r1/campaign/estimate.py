"""What a job of a campaign takes, before it is submitted: GPUs and hours.

Fine-tuning asks the planner of ``safe_r1.train.plan``. An evaluation's hours follow from its benchmarks'
``workload``, by the simulation of batch inference where it has GPUs, and from the assumptions below.
Attacks are planned as if every one asked all questions of a benchmark: at most that many are. One that
adapts is planned with all calls of the model that it may make, and without those of its attacker.
``hours`` of a recipe's stage takes precedence.
"""

import contextlib
import dataclasses
import math
from dataclasses import dataclass

from safe_r1.benchmarks import get_benchmark
from safe_r1.campaign.endpoint_use import EndpointUse
from safe_r1.campaign.generation import ENGINE_START_HOURS, RowGroup, generate
from safe_r1.campaign.recipe import NodeGroup, StageConfig
from safe_r1.config import EndpointConfig, EngineConfig
from safe_r1.errors import ConfigError, ResourceError
from safe_r1.inference.engine import check_resources, max_num_seqs
from safe_r1.inference.kv_cache import parallel_sizes
from safe_r1.inference.memory import context_length, sequence_tokens
from safe_r1.inference.spending import Spending
from safe_r1.judge.factory import engine_model
from safe_r1.models.checkpoints import with_size
from safe_r1.models.endpoint_entry import EndpointEntry, with_overrides
from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import Variant, as_exported, get_variant
from safe_r1.settings import load_config
from safe_r1.train.plan import plan_variant
from safe_r1.train.plan_text import problem_of
from safe_r1.train.storage import VolumeUse
from safe_r1.train.train_plan import TrainPlan

# A verdict is much shorter than the completion that it is about.
COMPLETION_TOKENS_PER_VERDICT_TOKEN = 4
CPU_TOKENS_PER_S = 100.0
# Of a question with its template; CHiSafetyBench's have 50 to 150, dialogues more.
PROMPT_TOKENS = 150
# Of one request to a provider; DeepSeek's API streams a reasoning model at 20 to 40.
ENDPOINT_TOKENS_PER_S = 25.0
RUN_ONCE_HOURS = {"corpus": 0.5, "compare": 0.1}
_JUDGING_HOURS = 0.1


@dataclass(frozen=True)
class Estimate:
    """What one job takes.

    Attributes:
        gpus: GPUs that it holds; 0 for one that runs on CPU.
        hours: From the start of its first node.
        basis: Where the figures come from, in a few words.
        max_num_seqs: Sequences that an engine of an evaluation decodes at once; None where it has none.
        endpoint: Tokens and cost of a model behind a URL; None for any other job.
        tokens_per_s: Output tokens a second of all engines of the evaluated model together, once they have
            started; None where it has none on GPUs.
        volume: Room for the files of a fine-tuning job; None for any other job.
    """

    gpus: int
    hours: float
    basis: str
    max_num_seqs: int | None = None
    endpoint: EndpointUse | None = None
    tokens_per_s: float | None = None
    volume: VolumeUse | None = None


def estimate(stage: StageConfig, variant: str | None, group: NodeGroup) -> Estimate:
    """GPUs and hours of one job of a stage.

    Raises:
        ConfigError: No node of the group can hold it, or a number in the recipe cannot be read.
    """
    if variant is None:
        planned = Estimate(0, RUN_ONCE_HOURS[stage.job], "a usual time")
    elif stage.job == "finetune":
        planned = _finetune(get_variant(variant), group)
    else:
        planned = _evaluate(stage, variant, group)
    return Estimate(
        gpus=planned.gpus if stage.gpus is None else stage.gpus,
        hours=planned.hours if stage.hours is None else stage.hours,
        basis=planned.basis if stage.hours is None else "the recipe",
        max_num_seqs=planned.max_num_seqs,
        endpoint=planned.endpoint,
        tokens_per_s=planned.tokens_per_s,
        volume=planned.volume,
    )


def _finetune(variant: Variant, group: NodeGroup) -> Estimate:
    if variant.endpoint or variant.is_given:
        place = "behind a URL" if variant.endpoint else "a name for given answers"
        raise ConfigError(f"{variant.name} is {place}: it can be evaluated, not fine-tuned")
    if group.gpu is None:
        # Whether it fits into the memory, the job itself checks on its machine.
        plan = plan_variant(variant, "cpu", 1)
        return Estimate(0, plan.run_hours, _steps(plan), volume=plan.volume)
    has_own_layout = variant.layout is not None and variant.layout.gpu == group.gpu
    plan = plan_variant(variant) if has_own_layout else _smallest_plan(variant, group.gpu, group)
    if problem := problem_of(plan):
        raise ConfigError(f"{variant.name} cannot be fine-tuned on this group: {problem}")
    return Estimate(plan.layout.num_gpus, plan.run_hours, _steps(plan), volume=plan.volume)


def _steps(plan: TrainPlan) -> str:
    return f"{plan.num_steps} steps of {plan.step_s:.3g} s"


def _smallest_plan(variant: Variant, gpu: str, group: NodeGroup) -> TrainPlan:
    """The plan on the group's kind of GPU, with as few nodes as hold it."""
    plans = (plan_variant(variant, gpu, nodes) for nodes in range(1, group.max_nodes + 1))
    plan = next((plan for plan in plans if problem_of(plan) is None), None)
    if plan is None:
        raise ConfigError(
            f"{variant.name} is too large for {group.max_nodes} nodes of {gpu}: `safe-r1 plan --variant "
            f"{variant.name}` shows what it needs; raise max_nodes of the group, or name another"
        )
    return plan


def _evaluate(stage: StageConfig, name: str, group: NodeGroup) -> Estimate:
    asked_of = stage.asked(name)
    tokens = sum(_tokens(stage, benchmark) * calls for benchmark, calls in asked_of)
    if endpoint := get_variant(name).endpoint:
        asked = _ask(stage, name, endpoint, tokens)
        gpus, hours = _judge(stage, name, group, tokens)
        return dataclasses.replace(asked, gpus=gpus, hours=asked.hours + hours)
    if get_variant(name).is_given:
        return Estimate(0, _JUDGING_HOURS, "given answers: nothing is generated")
    if group.gpu is None:
        return Estimate(0, ENGINE_START_HOURS + tokens / CPU_TOKENS_PER_S / 3600, f"{tokens:,} tokens")
    gpu = get_gpu(group.gpu)
    variant = with_size(get_variant(name))
    if stage.models_of:
        # The fine-tuned model is not there yet; its own files will say the same.
        variant = as_exported(variant)
    tokens_per_sequence = max(_tokens_per_sequence(variant, benchmark) for benchmark, _ in asked_of)
    longest = max(_context(variant, benchmark) for benchmark, _ in asked_of)
    defaults = {"max_model_len": longest, "tokens_per_sequence": tokens_per_sequence}
    engine = _engine(stage, name, "engine", variant, group, defaults)
    groups = tuple(_row_group(stage, variant, engine, *each) for each in asked_of)
    run = generate(variant, engine, gpu, groups)
    num_gpus = engine.replicas * parallel_sizes(variant, engine, "gpu").num_gpus
    judge_gpus, judge_hours = _judge(stage, name, group, tokens)
    basis = f"{tokens:,} tokens{', judged by a model' if judge_gpus else ''}"
    return Estimate(
        # The judge takes the place of the evaluated model, after it.
        max(num_gpus, judge_gpus),
        run.seconds / 3600 + judge_hours,
        basis,
        max_num_seqs(variant, engine, "gpu"),
        tokens_per_s=run.tokens_per_s,
    )


def _row_group(
    stage: StageConfig, variant: Variant, engine: EngineConfig, benchmark: str, calls: int
) -> RowGroup:
    """The rows of a benchmark, whose completions end at the model's own limit or with the context."""
    workload = get_benchmark(benchmark).workload
    longest = min(_max_tokens(variant, benchmark), context_length(variant, engine) - PROMPT_TOKENS)
    longest = max(1, longest)
    questions, repeats = _questions_and_repeats(stage, benchmark)
    return RowGroup(
        questions * calls, repeats, PROMPT_TOKENS, min(workload.completion_tokens, longest), longest
    )


def _judge(stage: StageConfig, name: str, group: NodeGroup, tokens: int) -> tuple[int, float]:
    """GPUs and hours of a judge on engines of the cluster; none for any other."""
    config = stage.judge(name)
    judge = engine_model(config)
    if judge is None or group.gpu is None:
        return 0, 0.0
    judge = with_size(judge)
    engine = _engine(stage, name, "judge.engine", judge, group, {})
    num_rows = _num_asked(stage, name)
    judged_tokens = tokens // num_rows
    # What is judged is in the judge's prompt.
    longest = min(config.reply_tokens, context_length(judge, engine) // 2)
    prompt = min(PROMPT_TOKENS + judged_tokens, context_length(judge, engine) - longest)
    mean = max(1, min(judged_tokens // COMPLETION_TOKENS_PER_VERDICT_TOKEN, longest))
    run = generate(judge, engine, get_gpu(group.gpu), (RowGroup(num_rows, 1, prompt, mean, longest),))
    return engine.replicas * parallel_sizes(judge, engine, "gpu").num_gpus, run.seconds / 3600


def _tokens_per_sequence(variant: Variant, benchmark: str) -> int:
    workload = get_benchmark(benchmark).workload
    return sequence_tokens(_max_tokens(variant, benchmark), workload.completion_tokens)


def _max_tokens(variant: Variant, benchmark: str) -> int:
    """Longest completion of a benchmark's questions, in tokens."""
    is_long = get_benchmark(benchmark).workload.is_long
    return variant.max_tokens_reasoning if is_long else variant.max_tokens_refusal


def _context(variant: Variant, benchmark: str) -> int:
    is_long = get_benchmark(benchmark).workload.is_long
    return variant.context_reasoning if is_long else variant.context


def _engine(
    stage: StageConfig,
    name: str,
    prefix: str,
    variant: Variant,
    group: NodeGroup,
    defaults: dict[str, int],
) -> EngineConfig:
    """The engine settings of one variant's job on the group's GPUs, checked as the job will check them.

    Raises:
        ConfigError: A setting cannot be read, or the group's GPUs do not hold the model.
    """
    replicas = _replicas(stage, name, prefix)
    start = f"{prefix}."
    overrides = [each.removeprefix(start) for each in stage.settings(name) if each.startswith(start)]
    named = {each.partition("=")[0] for each in overrides}
    unset = {key: value for key, value in defaults.items() if key not in named}
    assert group.gpu is not None
    gpu = get_gpu(group.gpu)
    if "gpu_memory_gib" not in named:
        unset |= {"gpu_memory_gib": gpu.memory_gib}
    engine = load_config(EngineConfig, None, overrides, **unset)
    # The group says how large its nodes are, also where they start on demand.
    asked = engine.model_copy(update={"device": "auto", "replicas": replicas})
    try:
        check_resources(variant, asked, "gpu", math.inf, math.inf, group.node_gpus)
    except ResourceError as error:
        raise ConfigError(f"on nodes of {gpu.name}: {error}; or name another group") from None
    return asked


def _ask(stage: StageConfig, name: str, entry: EndpointEntry, tokens: int) -> Estimate:
    """The completions of a model behind a URL, which take no GPU."""
    settings = [each for each in stage.settings(name) if each.startswith("endpoint.")]
    given = load_config(
        EndpointConfig,
        None,
        [each.removeprefix("endpoint.") for each in settings],
        max_cost=stage.flags.get("max-cost"),
    )
    entry = with_overrides(entry, given)
    lanes = len(entry.urls) * len(entry.api_key_envs) * entry.concurrency
    prompts = PROMPT_TOKENS * _num_asked(stage, name)
    cost = Spending(entry, prompts, tokens).cost
    if cost is not None and entry.max_cost is not None:
        cost = min(cost, entry.max_cost)
    return Estimate(
        gpus=0,
        hours=tokens / (lanes * ENDPOINT_TOKENS_PER_S) / 3600,
        basis=f"{tokens:,} tokens of an endpoint",
        endpoint=EndpointUse(prompts, tokens, cost),
    )


def _replicas(stage: StageConfig, variant: str, engine: str) -> int:
    name = f"{engine}.replicas"
    return _number(name, stage.setting(name, variant, "1"))


def _tokens(stage: StageConfig, name: str) -> int:
    return _num_rows(stage, name) * get_benchmark(name).workload.completion_tokens


def _num_asked(stage: StageConfig, variant: str) -> int:
    """Completions of all benchmarks under all attacks."""
    return sum(_num_rows(stage, benchmark) * calls for benchmark, calls in stage.asked(variant))


def _num_rows(stage: StageConfig, name: str) -> int:
    return math.prod(_questions_and_repeats(stage, name))


def _questions_and_repeats(stage: StageConfig, name: str) -> tuple[int, int]:
    benchmark = get_benchmark(name)
    num_questions = benchmark.workload.num_questions
    repeats = _number("repeats", stage.flags.get("repeats", benchmark.repeats))
    limit = _number("limit", stage.flags.get("limit", num_questions))
    return min(num_questions, limit), repeats


def _number(name: str, value: str | float | None) -> int:
    """A recipe's value as a number of at least 1."""
    with contextlib.suppress(ValueError):
        if (number := int(str(value))) >= 1:
            return number
    raise ConfigError(f"{name} {value!r}: expected a whole number of at least 1")
