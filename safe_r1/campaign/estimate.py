"""What a job of a campaign will take, before it is submitted: GPUs and hours.

Fine-tuning asks the planner of ``safe_r1.train.plan``. An evaluation's hours follow from assumptions that stand here; a recipe
that knows better says ``hours``.

Source of the utilization while decoding: an 8B model on one H100 at 12,500 tokens/s, 32B at 2,000 to 6,800, R1 on eight H200 at
5,500 to 20,400 (published figures of vLLM and SGLang): 20, 13 to 45, and 5 to 19 % of the peak.
"""

from dataclasses import dataclass

from safe_r1.benchmarks import expand
from safe_r1.campaign.recipe import NodeGroup, StageConfig
from safe_r1.errors import ConfigError
from safe_r1.models import DEFAULT_JUDGE, Variant, get_variant
from safe_r1.train.gpus import Gpu, get_gpu
from safe_r1.train.plan import TrainPlan, plan_variant
from safe_r1.train.plan_text import problem_of


@dataclass(frozen=True)
class Work:
    """What a benchmark asks of a reasoning model.

    Attributes:
        questions: Questions.
        repeats: Completions of each.
        tokens: Mean length of a completion; an assumption.
    """

    questions: int
    repeats: int
    tokens: int


# Questions and repeats are the benchmarks' own; lengths are what R1-style models are known to write, and a base model less.
WORK: dict[str, Work] = {
    "chisafetybench": Work(2130, 1, 700), "chisafetybench-sample": Work(48, 1, 700), "math-500": Work(500, 4, 4000),
    "gsm8k": Work(1319, 1, 1000), "gpqa-diamond": Work(198, 4, 8000), "livecodebench": Work(880, 4, 10000),
    "xstest": Work(450, 1, 700),
}  # fmt: skip
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
        ConfigError: No node group could ever hold it.
    """
    if variant is None:
        found = Estimate(0, ALONE_HOURS[stage.job], "a usual time")
    elif stage.job == "finetune":
        found = _finetune(get_variant(variant), group)
    else:
        found = _evaluate(stage, get_variant(variant), group)
    gpus = found.gpus if stage.gpus is None else stage.gpus
    return Estimate(gpus, stage.hours or found.hours, found.why if stage.hours is None else "the recipe")


def _finetune(variant: Variant, group: NodeGroup) -> Estimate:
    own = variant.layout is not None and (group.gpu is None or variant.layout.gpu == group.gpu)
    plan = plan_variant(variant) if own else _on(variant, group)
    if problem := problem_of(plan):
        raise ConfigError(f"{variant.name} cannot be fine-tuned on this group: {problem}")
    gpus = 0 if group.gpu is None else plan.layout.num_gpus
    return Estimate(gpus, plan.hours, f"{plan.num_steps} steps of {plan.step_s:.3g} s")


def _on(variant: Variant, group: NodeGroup) -> TrainPlan:
    """The plan on the group's kind of GPU, with as few nodes as hold it."""
    plans = (plan_variant(variant, group.gpu or "cpu", nodes) for nodes in range(1, group.max_nodes + 1))
    found = next((plan for plan in plans if problem_of(plan) is None), None)
    if found is None:
        raise ConfigError(
            f"{variant.name} is too large for {group.max_nodes} nodes of {group.gpu or 'CPUs'}: `safe-r1 plan --variant "
            f"{variant.name}` shows what it needs; raise max_nodes of the group, or name another"
        )
    return found


def _evaluate(stage: StageConfig, variant: Variant, group: NodeGroup) -> Estimate:
    tokens = sum(work.questions * work.repeats * work.tokens for work in (WORK[name] for name in expand(stage.benchmarks)))
    if group.gpu is None:
        return Estimate(0, ENGINE_START_HOURS + tokens / CPU_TOKENS_PER_S / 3600, f"{tokens:,} tokens")
    gpu, judge = get_gpu(group.gpu), DEFAULT_JUDGE if stage.flags.get("judge") == "llm" else None
    hours = _generate(variant, gpu, tokens)
    gpus = variant.tensor_parallel_size
    if judge:  # after the model, in its place
        gpus, hours = max(gpus, judge.tensor_parallel_size), hours + _generate(judge, gpu, tokens // JUDGED_PER_VERDICT)
    return Estimate(gpus, hours, f"{tokens:,} tokens{', judged by a model' if judge else ''}")


def _generate(variant: Variant, gpu: Gpu, tokens: int) -> float:
    """Hours in which one engine writes so many tokens."""
    gpus, weights = variant.tensor_parallel_size, variant.weights_gib()
    if weights / gpus > gpu.usable_gib:
        raise ConfigError(f"{variant.name} needs {weights / gpus:.0f} GiB of weights on each of {gpus} GPUs; {gpu.name} has "
                          f"{gpu.usable_gib:.0f}: name a group of larger GPUs")  # fmt: skip
    active = max(0.1, variant.params_b * ACTIVE_SHARE.get(variant.family, 1.0))
    mfu = DECODING_MFU["experts" if variant.family in ACTIVE_SHARE else "dense"]
    speed = gpus * gpu.tflops * 1e12 * mfu / (2e9 * active)
    return ENGINE_START_HOURS + (weights / LOAD_GIB_PER_S + tokens / speed) / 3600
