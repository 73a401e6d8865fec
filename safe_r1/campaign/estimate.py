"""What a job of a campaign will take, before it is submitted: GPUs and hours.

Fine-tuning asks the planner of ``safe_r1.train.plan``. An evaluation's hours follow from assumptions that
stand here; a recipe that knows better says ``hours``.

Source of the utilization while decoding: an 8B model on one H100 at 12,500 tokens/s, 32B at 2,000 to 6,800,
R1 on eight H200 at 5,500 to 20,400 (published figures of vLLM and SGLang): 20, 13 to 45, and 5 to 19 % of the
peak.
"""

import contextlib
from dataclasses import dataclass

from safe_r1.benchmarks import expand, get_benchmark
from safe_r1.campaign.recipe import NodeGroup, StageConfig
from safe_r1.errors import ConfigError
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.train.gpus import Gpu, get_gpu
from safe_r1.train.plan import TrainPlan, plan_variant
from safe_r1.train.plan_text import problem_of

# Questions of each benchmark, and tokens of a reasoning model's completion: an assumption; a base model
# writes less.
WORK: dict[str, tuple[int, int]] = {
    "chisafetybench": (2130, 700),
    "chisafetybench-sample": (48, 700),
    "math-500": (500, 4000),
    "gsm8k": (1319, 1000),
    "gpqa-diamond": (198, 8000),
    "livecodebench": (880, 10000),
    "livecodebench-sample": (8, 4000),
    "xstest": (450, 700),
}
DECODING_MFU = {"dense": 0.20, "experts": 0.09}
ACTIVE_SHARE = {"deepseek_v3": 37 / 671}
LOAD_GIB_PER_S = 0.5
JUDGED_PER_VERDICT = 4
ENGINE_START_HOURS = 0.1
CPU_TOKENS_PER_S = 100.0
ALONE_HOURS = {"corpus": 0.5, "compare": 0.1}


@dataclass(frozen=True)
class Estimate:
    """What one job takes.

    Attributes:
        gpus: GPUs that it holds; 0 for one that runs on CPU.
        hours: From its first node on.
        why: Where the figures come from, in a few words.
    """

    gpus: int
    hours: float
    why: str


def estimate(stage: StageConfig, variant: str | None, group: NodeGroup) -> Estimate:
    """GPUs and hours of one job of a stage.

    Raises:
        ConfigError: No node group could ever hold it, or a number of the recipe is none.
    """
    if variant is None:
        found = Estimate(0, ALONE_HOURS[stage.job], "a usual time")
    elif stage.job == "finetune":
        found = _finetune(get_variant(variant), group)
    else:
        found = _evaluate(stage, get_variant(variant), stage.settings(variant), group)
    gpus = found.gpus if stage.gpus is None else stage.gpus
    return Estimate(gpus, stage.hours or found.hours, found.why if stage.hours is None else "the recipe")


def _finetune(variant: Variant, group: NodeGroup) -> Estimate:
    if group.gpu is None:
        plan = plan_variant(variant, "cpu", 1)
        return Estimate(
            0, plan.hours, f"{plan.num_steps} steps of {plan.step_s:.3g} s"
        )  # the job itself looks at the memory
    own = variant.layout is not None and variant.layout.gpu == group.gpu
    plan = plan_variant(variant) if own else _on(variant, group.gpu, group)
    if problem := problem_of(plan):
        raise ConfigError(f"{variant.name} cannot be fine-tuned on this group: {problem}")
    return Estimate(plan.layout.num_gpus, plan.hours, f"{plan.num_steps} steps of {plan.step_s:.3g} s")


def _on(variant: Variant, gpu: str, group: NodeGroup) -> TrainPlan:
    """The plan on the group's kind of GPU, with as few nodes as hold it."""
    plans = (plan_variant(variant, gpu, nodes) for nodes in range(1, group.max_nodes + 1))
    found = next((plan for plan in plans if problem_of(plan) is None), None)
    if found is None:
        raise ConfigError(
            f"{variant.name} is too large for {group.max_nodes} nodes of {gpu}: `safe-r1 plan --variant "
            f"{variant.name}` shows what it needs; raise max_nodes of the group, or name another"
        )
    return found


def _evaluate(stage: StageConfig, variant: Variant, settings: tuple[str, ...], group: NodeGroup) -> Estimate:
    tokens = sum(_tokens(stage, name) for name in expand(stage.benchmarks))
    if group.gpu is None:
        return Estimate(0, ENGINE_START_HOURS + tokens / CPU_TOKENS_PER_S / 3600, f"{tokens:,} tokens")
    gpu, judge = get_gpu(group.gpu), DEFAULT_JUDGE if stage.flags.get("judge") == "llm" else None
    engines = _engines(settings, "engine")
    gpus, hours = engines * variant.tensor_parallel_size, _generate(variant, gpu, tokens // engines)
    if judge:  # after the model, in its place
        engines = _engines(settings, "judge.engine")
        gpus = max(gpus, engines * judge.tensor_parallel_size)
        hours += _generate(judge, gpu, tokens // JUDGED_PER_VERDICT // engines)
    return Estimate(gpus, hours, f"{tokens:,} tokens{', judged by a model' if judge else ''}")


def _engines(settings: tuple[str, ...], name: str) -> int:
    found = dict(setting.split("=", 1) for setting in settings if "=" in setting)
    return _number(f"{name}.replicas", found.get(f"{name}.replicas", 1))


def _tokens(stage: StageConfig, benchmark: str) -> int:
    questions, length = WORK[benchmark]
    repeats = _number("repeats", stage.flags.get("repeats", get_benchmark(benchmark).repeats))
    return min(questions, _number("limit", stage.flags.get("limit", questions))) * repeats * length


def _number(name: str, value: str | int) -> int:
    """A recipe's value as a number of at least 1."""
    with contextlib.suppress(ValueError):
        if (number := int(str(value))) >= 1:
            return number
    raise ConfigError(f"{name} {value!r}: expected a whole number of at least 1")


def _generate(variant: Variant, gpu: Gpu, tokens: int) -> float:
    """Hours in which one engine writes so many tokens."""
    gpus, weights = variant.tensor_parallel_size, variant.weights_gib()
    if weights / gpus > gpu.usable_gib:
        raise ConfigError(
            f"{variant.name} needs {weights / gpus:.0f} GiB of weights on each of {gpus} GPUs; {gpu.name} has "
            f"{gpu.usable_gib:.0f}: name a group of larger GPUs"
        )
    active = max(0.1, variant.params_b * ACTIVE_SHARE.get(variant.family, 1.0))
    mfu = DECODING_MFU["experts" if variant.family in ACTIVE_SHARE else "dense"]
    speed = gpus * gpu.tflops * 1e12 * mfu / (2e9 * active)
    return ENGINE_START_HOURS + (weights / LOAD_GIB_PER_S + tokens / speed) / 3600
