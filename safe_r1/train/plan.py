"""Resource plans of fine-tuning runs: for a layout, for a variant, and on the fewest GPUs that hold one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from safe_r1.models.gpus import Gpu, get_gpu
from safe_r1.models.registry import Layout, Variant
from safe_r1.train.architecture import Architecture, get_architecture
from safe_r1.train.config import FinetuneConfig, Fp8Recipe
from safe_r1.train.parallel import spans_nodes
from safe_r1.train.train_plan import TrainPlan

_DEFAULTS = FinetuneConfig(variant="-", corpus="-")

# Assumption: 50,000 conversations of 1,500 tokens (prompt, reasoning and answer together).
CONVERSATIONS = 50_000
CONVERSATION_TOKENS = 1_500
MAX_GPUS = 1024
# For models whose registry entry has no layout.
DEFAULT_GPU = "h100-80"
# Layers are kept instead of recomputed up to this share of the usable memory: the memory model agrees with
# the simulation to 6%, and what is kept is the part that can be given up.
_RECOMPUTE_LESS_BELOW = 0.95
# Steps whose durations differ by less than the model can tell.
_EQUAL_STEPS = 1.03


def make_plan(
    architecture: Architecture,
    layout: Layout,
    *,
    gpu: Gpu | None = None,
    seq_len: int = _DEFAULTS.pack.seq_len,
    global_batch_size: int = _DEFAULTS.global_batch_size,
    activation_checkpointing: bool = _DEFAULTS.parallel.activation_checkpointing,
    logits_budget_mib: int = _DEFAULTS.parallel.logits_budget_mib,
    corpus_tokens: int = CONVERSATIONS * CONVERSATION_TOKENS,
    epochs: int = _DEFAULTS.epochs,
    document_tokens: int = CONVERSATION_TOKENS,
    dtype_bytes: int | None = None,
    stored_bytes: float = 2.0,
    volume_limit_gib: float | None = None,
    recompute_every: int | None = _DEFAULTS.parallel.recompute_every,
    defer_gradient_reduction: bool = _DEFAULTS.parallel.defer_gradient_reduction,
    compiled: bool = _DEFAULTS.parallel.compile,
    fp8: Fp8Recipe | None = _DEFAULTS.fp8,
) -> TrainPlan:
    """The plan of a run, which is not validated yet; see ``check_plan``.

    Args:
        architecture: Dimensions of the model.
        layout: GPUs and sharding.
        gpu: Overrides the table's entry for ``layout.gpu``, for example with the measured memory.
        seq_len: See ``TrainPlan``, as for the following.
        global_batch_size: Packed sequences of an optimizer step.
        activation_checkpointing: Recompute each layer in the backward pass.
        logits_budget_mib: Memory limit of the logits.
        corpus_tokens: Tokens of one epoch.
        epochs: Passes over the corpus.
        document_tokens: Mean length of a conversation.
        dtype_bytes: 2 for bf16, 4 for fp32; None: 4 on ``cpu``, else 2.
        stored_bytes: Bytes of a parameter in the original model's files.
        volume_limit_gib: Room for the run's files; None: unknown.
        recompute_every: See ``TrainPlan``; None: as ``with_least_recomputation`` chooses.
        defer_gradient_reduction: See ``TrainPlan``.
        compiled: See ``TrainPlan``.
        fp8: See ``TrainPlan``.

    Raises:
        ConfigError: The layout's GPU is unknown.
    """
    gpu = gpu or get_gpu(layout.gpu)
    plan = TrainPlan(
        architecture,
        layout,
        gpu,
        seq_len,
        global_batch_size,
        activation_checkpointing,
        logits_budget_mib,
        corpus_tokens,
        epochs,
        document_tokens,
        dtype_bytes or (4 if gpu.name == "cpu" else 2),
        stored_bytes,
        volume_limit_gib,
        recompute_every or 1,
        defer_gradient_reduction,
        compiled,
        fp8,
    )
    return plan if recompute_every else with_least_recomputation(plan)


def with_least_recomputation(plan: TrainPlan) -> TrainPlan:
    """The plan with as few recomputed layers as the memory of its GPUs allows; on CPU with every layer."""
    every_layer = replace(plan, recompute_every=1)
    if plan.gpu.name == "cpu" or not plan.activation_checkpointing:
        return every_layer
    fewer = (replace(plan, recompute_every=every) for every in (plan.architecture.num_layers, 16, 8, 4, 3, 2))
    limit_gib = _RECOMPUTE_LESS_BELOW * plan.gpu.usable_gib
    return next((choice for choice in fewer if choice.memory.total <= limit_gib), every_layer)


def plan_variant(
    variant: Variant,
    gpu: str | None = None,
    nodes: int | None = None,
    *,
    seq_len: int | None = None,
    global_batch_size: int | None = None,
    corpus_tokens: int | None = None,
    volume_limit_gib: float | None = None,
) -> TrainPlan:
    """The plan of a variant with its registry layout, or on a given number of nodes of a GPU type.

    Args:
        variant: The model.
        gpu: GPU type; None: the layout's.
        nodes: Number of nodes, all GPUs of each; None: as in the layout.
        seq_len: As for ``make_plan``; None: the default.
        global_batch_size: As for ``make_plan``; None: the default.
        corpus_tokens: As for ``make_plan``; None: the default.
        volume_limit_gib: As for ``make_plan``.

    Raises:
        ConfigError: The GPU is unknown.
        ModelError: The variant's ``config.json`` cannot be read or is of an unsupported architecture.
    """
    own = variant.layout or Layout(gpu or DEFAULT_GPU, 1, why="the fewest GPUs that hold it")
    gpu_type = get_gpu(gpu or own.gpu)
    layout = replace(own, gpu=gpu_type.name)
    architecture = get_architecture(variant)

    def make(each: Layout) -> TrainPlan:
        plan = make_plan(
            architecture,
            each,
            seq_len=seq_len or _DEFAULTS.pack.seq_len,
            global_batch_size=global_batch_size or _DEFAULTS.global_batch_size,
            corpus_tokens=corpus_tokens or CONVERSATIONS * CONVERSATION_TOKENS,
            stored_bytes=variant.bytes_per_param,
            volume_limit_gib=volume_limit_gib,
        )
        return keep_rows_that_fit(plan)

    # The registry explains its own layout; any other one was asked for.
    if nodes:
        layout = resize(layout, nodes * gpu_type.per_node)
    if layout != own:
        default = f"; the default of {variant.name} is {own.num_gpus} × {own.gpu}" if variant.layout else ""
        return fastest_sharding(make, replace(layout, why=f"as requested{default}"))
    if variant.layout:
        return make(layout)
    # Without a layout or a request, use as few GPUs as possible.
    plan = make(layout)
    return smallest_fit(plan) or plan


def fastest_sharding(
    make: Callable[[Layout], TrainPlan],
    layout: Layout,
    fsdp_size: int | None = None,
    ep_size: int | None = None,
) -> TrainPlan:
    """The plan whose sharding has the shortest step on a layout's GPUs, of those that fit.

    Compared are the numbers of GPUs that share one copy of the parameters (the others hold further copies),
    and for a layout with expert parallelism the numbers of GPUs that share the experts. Of plans whose steps
    are alike, the one that sends least between nodes is taken.

    Args:
        make: The plan of a run with a layout.
        layout: The GPUs; taken as it is if nothing fits.
        fsdp_size: A number that was asked for; None: to be compared.
        ep_size: The same for the experts.
    """
    default = make(layout)
    plans = [make(each) for each in _shardings(default, fsdp_size, ep_size)]
    plans = [plan for plan in plans if plan.fits]
    if not plans:
        return default
    limit_s = _EQUAL_STEPS * min(plan.step_s for plan in plans)
    alike = [plan for plan in plans if plan.step_s <= limit_s]
    return min(alike, key=lambda plan: plan.step_model.communication.sent("inter_node"))


def _shardings(plan: TrainPlan, fsdp_size: int | None, ep_size: int | None) -> Iterator[Layout]:
    layout = plan.layout
    experts = plan.architecture.experts
    per_node = plan.gpu.per_node
    workers = layout.dp_size
    for fsdp in _divisors(workers):
        ep_sizes = [layout.ep_size]
        if experts and layout.ep_size > 1:
            # Experts are spread over a part of a node or over whole nodes.
            ep_sizes = [
                ep
                for ep in _divisors(math.gcd(fsdp * layout.tp_size, experts.num))
                if ep > 1 and ep % layout.tp_size == 0 and (per_node % ep == 0 or ep % per_node == 0)
            ]
        for ep in ep_sizes:
            if fsdp_size in (None, fsdp) and ep_size in (None, ep):
                yield replace(layout, fsdp_size=fsdp, dp_replicate_size=workers // fsdp, ep_size=ep)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def keep_rows_that_fit(plan: TrainPlan) -> TrainPlan:
    """The plan with ``keep_routed_rows`` where it fits, which saves one of five exchanges of tokens."""
    layout = plan.layout
    if not plan.architecture.experts or not spans_nodes(layout.ep_size, layout.tp_size, plan.gpu.per_node):
        return plan
    keeping = replace(plan, layout=replace(layout, keep_routed_rows=True))
    return keeping if keeping.fits else plan


def resize(layout: Layout, num_gpus: int, *, shard: bool = False) -> Layout:
    """The layout on another number of GPUs: more replicas of the model, or one replica over all of them.

    Args:
        layout: The original layout.
        num_gpus: GPUs of the new one.
        shard: Always shard one replica over all GPUs, which needs the least memory per GPU.
    """
    workers = num_gpus // layout.tp_size
    replicas = 1 if shard or workers % layout.fsdp_size else workers // layout.fsdp_size
    fsdp = workers // replicas
    return replace(
        layout,
        fsdp_size=fsdp,
        dp_replicate_size=replicas,
        # Expert parallelism regroups the workers of a replica, so it must divide their number.
        ep_size=math.gcd(layout.ep_size, fsdp * layout.tp_size),
    )


def smallest_fit(plan: TrainPlan) -> TrainPlan | None:
    """The same run on the fewest GPUs (1, 2, 4, ... up to ``MAX_GPUS``) that hold it; None if none do."""

    def make(layout: Layout) -> TrainPlan:
        return with_least_recomputation(replace(plan, layout=layout))

    layouts = (
        resize(plan.layout, 2**power, shard=True)
        for power in range(MAX_GPUS.bit_length())
        if 2**power >= plan.layout.tp_size
    )
    plans = (fastest_sharding(make, layout, fsdp_size=layout.fsdp_size) for layout in layouts)
    return next((smaller for smaller in plans if smaller.fits), None)
