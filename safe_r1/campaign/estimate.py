"""What a job of a campaign takes, before it is submitted: GPUs and hours.

Fine-tuning asks the planner of ``safe_r1.train.plan``. An evaluation's hours follow from its benchmarks'
``workload`` and the assumptions below; ``hours`` of a recipe's stage takes precedence.

Source of the utilization while decoding: an 8B model on one H100 at 12,500 tokens/s, 32B at 2,000 to 6,800,
R1 on eight H200 at 5,500 to 20,400 (published figures of vLLM and SGLang): 20, 13 to 45, and 5 to 19 % of the
peak.
"""

import contextlib
from dataclasses import dataclass

from safe_r1.benchmarks import expand, get_benchmark
from safe_r1.campaign.recipe import NodeGroup, StageConfig
from safe_r1.errors import ConfigError
from safe_r1.judge.factory import engine_model
from safe_r1.models.checkpoints import with_size
from safe_r1.models.registry import Variant, get_variant
from safe_r1.train.gpus import Gpu, get_gpu
from safe_r1.train.plan import TrainPlan, plan_variant
from safe_r1.train.plan_text import problem_of

DECODING_MFU = {"dense": 0.20, "experts": 0.09}
ACTIVE_SHARE = {"deepseek_v3": 37 / 671}
LOAD_GIB_PER_S = 0.5
# A verdict is much shorter than the completion that it is about.
COMPLETION_TOKENS_PER_VERDICT_TOKEN = 4
ENGINE_START_HOURS = 0.1
CPU_TOKENS_PER_S = 100.0
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
    """

    gpus: int
    hours: float
    basis: str


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
    )


def _finetune(variant: Variant, group: NodeGroup) -> Estimate:
    if variant.endpoint or variant.is_given:
        place = "behind a URL" if variant.endpoint else "a name for given answers"
        raise ConfigError(f"{variant.name} is {place}: it can be evaluated, not fine-tuned")
    if group.gpu is None:
        # Whether it fits into the memory, the job itself checks on its machine.
        plan = plan_variant(variant, "cpu", 1)
        return Estimate(0, plan.hours, _steps(plan))
    has_own_layout = variant.layout is not None and variant.layout.gpu == group.gpu
    plan = plan_variant(variant) if has_own_layout else _smallest_plan(variant, group.gpu, group)
    if problem := problem_of(plan):
        raise ConfigError(f"{variant.name} cannot be fine-tuned on this group: {problem}")
    return Estimate(plan.layout.num_gpus, plan.hours, _steps(plan))


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
    tokens = sum(_tokens(stage, benchmark) for benchmark in expand(stage.benchmarks))
    if endpoint := get_variant(name).endpoint:
        lanes = len(endpoint.urls) * len(endpoint.api_key_envs) * endpoint.concurrency
        hours = tokens / (lanes * ENDPOINT_TOKENS_PER_S) / 3600
        return Estimate(0, hours, f"{tokens:,} tokens of an endpoint")
    if get_variant(name).is_given:
        return Estimate(0, _JUDGING_HOURS, "given answers: nothing is generated")
    if group.gpu is None:
        return Estimate(0, ENGINE_START_HOURS + tokens / CPU_TOKENS_PER_S / 3600, f"{tokens:,} tokens")
    gpu = get_gpu(group.gpu)
    variant = with_size(get_variant(name))
    engines = _replicas(stage, name, "engine")
    gpus = engines * variant.tensor_parallel_size
    hours = _generation_hours(variant, gpu, tokens // engines)
    judge = engine_model(stage.judge(name))
    if judge:
        # It takes the place of the evaluated model, after it.
        judge = with_size(judge)
        engines = _replicas(stage, name, "judge.engine")
        gpus = max(gpus, engines * judge.tensor_parallel_size)
        hours += _generation_hours(judge, gpu, tokens // COMPLETION_TOKENS_PER_VERDICT_TOKEN // engines)
    return Estimate(gpus, hours, f"{tokens:,} tokens{', judged by a model' if judge else ''}")


def _replicas(stage: StageConfig, variant: str, engine: str) -> int:
    name = f"{engine}.replicas"
    return _number(name, stage.setting(name, variant, "1"))


def _tokens(stage: StageConfig, name: str) -> int:
    benchmark = get_benchmark(name)
    workload = benchmark.workload
    repeats = _number("repeats", stage.flags.get("repeats", benchmark.repeats))
    limit = _number("limit", stage.flags.get("limit", workload.num_questions))
    return min(workload.num_questions, limit) * repeats * workload.completion_tokens


def _number(name: str, value: str | int | None) -> int:
    """A recipe's value as a number of at least 1."""
    with contextlib.suppress(ValueError):
        if (number := int(str(value))) >= 1:
            return number
    raise ConfigError(f"{name} {value!r}: expected a whole number of at least 1")


def _generation_hours(variant: Variant, gpu: Gpu, tokens: int) -> float:
    """Hours in which one engine starts and generates that number of tokens.

    Raises:
        ConfigError: The weights do not fit into the variant's GPUs.
    """
    gpus = variant.tensor_parallel_size
    weights = variant.weights_gib()
    if weights / gpus > gpu.usable_gib:
        raise ConfigError(
            f"{variant.name} needs {weights / gpus:.0f} GiB of weights on each of {gpus} GPUs; {gpu.name} "
            f"has {gpu.usable_gib:.0f}: name a group of larger GPUs"
        )
    # Two operations for each active parameter and token; 2e9 as parameters are counted in billions.
    active = max(0.1, variant.params_b * ACTIVE_SHARE.get(variant.family, 1.0))
    mfu = DECODING_MFU["experts" if variant.family in ACTIVE_SHARE else "dense"]
    tokens_per_s = gpus * gpu.tflops * 1e12 * mfu / (2e9 * active)
    return ENGINE_START_HOURS + (weights / LOAD_GIB_PER_S + tokens / tokens_per_s) / 3600
