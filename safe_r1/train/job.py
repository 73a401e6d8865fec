"""A validated fine-tuning job: model, workers, plan and folder; and the specification for its workers."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from upath import UPath

from safe_r1.errors import ConfigError, ResourceError
from safe_r1.inference.device import pick_device
from safe_r1.models.checkpoints import prepare, with_size
from safe_r1.models.gpus import Gpu, get_gpu
from safe_r1.models.registry import Layout, Variant, get_variant
from safe_r1.resources import Cluster, Device
from safe_r1.runs import RunFolder
from safe_r1.train.architecture import Architecture, get_architecture
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import PreparedData
from safe_r1.train.fp8_layers import check_fp8
from safe_r1.train.model import ModelSpec
from safe_r1.train.parallel import resolve_dims
from safe_r1.train.plan import DEFAULT_GPU, fastest_sharding, keep_rows_that_fit, make_plan
from safe_r1.train.plan_check import check_plan
from safe_r1.train.sampler import num_steps
from safe_r1.train.spec import TrainSpec
from safe_r1.train.train_plan import TrainPlan


@dataclass(frozen=True)
class TrainJob:
    """A validated job.

    Attributes:
        config: The settings.
        variant: The model, with a source that can be loaded.
        identity: Identity of its weights.
        architecture: Its dimensions.
        device: ``cpu`` or ``cuda``.
        workers: Minimum and maximum number of workers.
        plan: Plan for the minimum number of workers that the batch size allows.
        folder: Folder of the run.
    """

    config: FinetuneConfig
    variant: Variant
    identity: str
    architecture: Architecture
    device: str
    workers: tuple[int, int]
    plan: TrainPlan
    folder: RunFolder

    @property
    def model_folder(self) -> UPath:
        """Folder of the exported model, named like the enhanced variant."""
        return self.folder.path / f"{self.variant.name}-safe"


def absolute(path: str) -> str:
    """An absolute path, since workers have another working directory; URIs stay as they are."""
    return path if "://" in path else str(Path(path).absolute())


def make_job(config: FinetuneConfig, cluster: Cluster) -> TrainJob:
    """Validate everything that can be validated before a GPU is used.

    Raises:
        SafeR1Error: The settings do not fit the model or the cluster.
    """
    requested = get_variant(config.variant)
    device = pick_device(with_size(requested), config.device, cluster.gpu_total)
    variant, identity = prepare(requested, config.trust_remote_code)
    architecture = get_architecture(variant)
    layout = variant.layout if device == "gpu" else None
    default_workers = layout.num_gpus if layout else 1
    workers = config.worker_range or (default_workers, default_workers)
    minimum, maximum = workers
    # With device=gpu the autoscaler may still add GPU nodes.
    if device == "gpu" and config.device == "auto" and cluster.gpu_total < minimum:
        raise ResourceError(
            f"{variant.name} needs {minimum} GPUs and this cluster has {cluster.gpu_total:g}: set "
            "--num-workers (see `safe-r1 plan`), or --set device=gpu if the cluster adds GPU nodes on demand"
        )
    make = functools.partial(_make_plan, config, variant, architecture, device, cluster, minimum == maximum)
    if config.fp8:
        check_fp8(config, make(minimum).layout, _uses_bf16(config, device))
    if minimum != maximum and make(maximum).layout.tp_size > 1:
        raise ConfigError(
            f"num_workers {config.num_workers}: elastic training needs parallel.tp_size=1; give one number"
        )
    # In an elastic range only some numbers of workers divide the batch; with the others, dummy sequences fill
    # the last micro-batches. A fixed number must divide it, which check_plan checks.
    plans = [make(num_workers) for num_workers in range(minimum, maximum + 1)]
    usable = [plan for plan in plans if _divides_batch(plan)] or plans
    for plan in usable:
        check_plan(plan)
    return TrainJob(
        config,
        variant,
        identity,
        architecture,
        "cuda" if device == "gpu" else "cpu",
        workers,
        usable[0],
        RunFolder.locate(absolute(config.output), config.run, variant.name, ""),
    )


def _divides_batch(plan: TrainPlan) -> bool:
    return plan.global_batch_size % (plan.layout.micro_batch_size * plan.layout.dp_size) == 0


def _make_plan(
    config: FinetuneConfig,
    variant: Variant,
    architecture: Architecture,
    device: Device,
    cluster: Cluster,
    is_fixed: bool,
    num_workers: int,
) -> TrainPlan:
    """The plan for a number of workers; ``is_fixed``: the only one, so that its sharding may be chosen."""
    parallel = config.parallel
    if parallel.cpu_offload and num_workers == 1:
        raise ConfigError("parallel.cpu_offload needs at least two workers, because FSDP does the offloading")
    gpu = _gpu_of(config, variant, device, num_workers, cluster)

    def make(layout: Layout) -> TrainPlan:
        plan = make_plan(
            architecture,
            layout,
            gpu=gpu,
            seq_len=config.pack.seq_len,
            global_batch_size=config.global_batch_size,
            activation_checkpointing=parallel.activation_checkpointing,
            recompute_every=parallel.recompute_every,
            logits_budget_mib=parallel.logits_budget_mib,
            defer_gradient_reduction=parallel.defer_gradient_reduction,
            compiled=parallel.compile,
            fp8=config.fp8,
            epochs=config.epochs,
            dtype_bytes=2 if _uses_bf16(config, device) else 4,
            stored_bytes=variant.bytes_per_param,
        )
        return keep_rows_that_fit(plan) if parallel.keep_routed_rows is None else plan

    layout = _layout_of(config, variant, device, num_workers, gpu)
    # The variant's own layout is for its own number of GPUs.
    is_own = variant.layout is not None and num_workers == variant.layout.num_gpus
    if device == "cpu" or is_own or not is_fixed:
        return make(layout)
    return fastest_sharding(make, layout, parallel.fsdp_size, parallel.ep_size)


def _gpu_of(
    config: FinetuneConfig, variant: Variant, device: Device, num_workers: int, cluster: Cluster
) -> Gpu:
    """The GPU type of the plan; CPU workers share the memory and compute of one machine."""
    if device == "gpu":
        gpu = get_gpu(config.gpu or (variant.layout.gpu if variant.layout else DEFAULT_GPU))
        host_memory_gib = config.parallel.host_memory_gib
        return replace(gpu, node_memory_gib=host_memory_gib) if host_memory_gib else gpu
    machine = get_gpu("cpu")
    return replace(
        machine,
        memory_gib=round(cluster.memory_gib / num_workers, 1),
        tflops=machine.tflops / num_workers,
        memory_gb_s=machine.memory_gb_s / num_workers,
        per_node=num_workers,
    )


def _layout_of(
    config: FinetuneConfig, variant: Variant, device: Device, num_workers: int, gpu: Gpu
) -> Layout:
    """The layout for a number of workers: the settings, else the variant's own on GPUs, else defaults."""
    parallel = config.parallel
    own = variant.layout if device == "gpu" else None
    default = own or Layout(gpu.name, 1)
    dims = resolve_dims(parallel, own, num_workers)
    return replace(
        default,
        gpu=gpu.name,
        fsdp_size=dims.fsdp,
        tp_size=dims.tp,
        ep_size=dims.ep,
        dp_replicate_size=dims.dp_replicate,
        micro_batch_size=parallel.micro_batch_size or default.micro_batch_size,
        states=config.optimizer.states or default.states,
        cpu_offload=default.cpu_offload if parallel.cpu_offload is None else parallel.cpu_offload,
        keep_routed_rows=bool(parallel.keep_routed_rows),
    )


def _uses_bf16(config: FinetuneConfig, device: Device) -> bool:
    return config.dtype == "bf16" or (config.dtype == "auto" and device == "gpu")


def make_spec(job: TrainJob, data: PreparedData) -> TrainSpec:
    """The specification for the workers.

    Raises:
        ConfigError: The corpus has fewer sequences than one batch.
    """
    config = job.config
    layout = job.plan.layout
    train = data.content["splits"]["train"]
    steps = num_steps(train["num_sequences"], config.global_batch_size, config.epochs)
    # On CPU, neither the registry's layout nor the peak of a GPU applies.
    on_gpu = job.device == "cuda"
    minimum, maximum = job.workers
    model = ModelSpec.of_plan(
        job.plan, job.variant.source, job.variant.revision, trust_remote_code=config.trust_remote_code
    )
    mean_document = train["num_tokens"] / train["num_documents"]
    return TrainSpec(
        config=config,
        model=model,
        # Of an elastic run the workers derive the sharding from their number.
        layout=layout if minimum == maximum else job.variant.layout if on_gpu else None,
        states=layout.states,
        micro_batch_size=layout.micro_batch_size,
        device=job.device,
        data=str(data.folder),
        folder=str(job.folder.path),
        num_steps=min(steps, config.max_steps or steps),
        flops_per_token=job.architecture.train_flops_per_token(mean_document),
        peak_flops=job.plan.gpu.tflops * 1e12 if on_gpu else None,
    )
