"""A fine-tuning run that was checked: model, workers, plan, folder; and what its workers are told."""

from dataclasses import dataclass, replace
from pathlib import Path

from upath import UPath

from safe_r1.errors import ConfigError, ResourceError
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import Layout, Variant, get_variant
from safe_r1.resources import Cluster, pick_device
from safe_r1.runs import RunFolder
from safe_r1.train.architecture import Architecture, get_architecture
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import DataInfo, num_steps
from safe_r1.train.loop import TrainSpec
from safe_r1.train.model import ModelSpec
from safe_r1.train.parallel import resolve_sizes
from safe_r1.train.plan import Gpu, TrainPlan, check_plan, get_gpu, make_plan


@dataclass(frozen=True)
class Job:
    """A run that was checked and can begin.

    Attributes:
        config: The settings.
        variant: With a source that can be loaded.
        identity: Of its weights.
        device: ``cpu`` or ``cuda``.
        workers: Fewest and most.
        plan: With the fewest workers.
        folder: Of the run.
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
        """Where the finished model goes; its name is the name of the enhanced variant."""
        return self.folder.path / f"{self.variant.name}-safe"


def absolute(place: str) -> str:
    """A place as workers can use it that are started elsewhere."""
    return place if "://" in place else str(Path(place).absolute())


def make_job(config: FinetuneConfig, cluster: Cluster) -> Job:
    """Check all that can be checked before a GPU is taken.

    Raises:
        SafeR1Error: What does not fit, in one line.
    """
    named = get_variant(config.variant)
    device = pick_device(named, config.device, cluster.gpu_total)
    variant, identity = prepare(named)
    architecture = get_architecture(variant)
    own = variant.layout if device == "gpu" else None
    workers = config.worker_range or ((own.num_gpus, own.num_gpus) if own else (1, 1))
    if device == "gpu" and config.device == "auto" and cluster.gpu_total < workers[0]:
        raise ResourceError(
            f"{variant.name} wants {workers[0]} GPUs and this cluster has {cluster.gpu_total:g}: give --num-workers, see "
            "`safe-r1 plan`, or --set device=gpu where GPU nodes start on demand"
        )
    if (
        workers[0] != workers[1]
        and _plan(config, variant, architecture, device, workers[1], cluster).layout.tp_size > 1
    ):
        raise ConfigError(
            f"num_workers {config.num_workers}: an elastic number needs parallel.tp_size=1; give one number"
        )
    plans = [
        _plan(config, variant, architecture, device, count, cluster)
        for count in range(workers[0], workers[1] + 1)
    ]
    usable = [plan for plan in plans if _divides(plan)] or plans
    for plan in usable:
        check_plan(plan)
    folder = RunFolder.locate(absolute(config.output), config.run, variant.name, "")
    return Job(
        config,
        variant,
        identity,
        architecture,
        "cuda" if device == "gpu" else "cpu",
        workers,
        usable[0],
        folder,
    )


def _divides(plan: TrainPlan) -> bool:
    return plan.global_batch_size % (plan.layout.micro_batch_size * plan.layout.dp_size) == 0


def _plan(
    config: FinetuneConfig,
    variant: Variant,
    architecture: Architecture,
    device: str,
    workers: int,
    cluster: Cluster,
) -> TrainPlan:
    own, asked = variant.layout if device == "gpu" else None, config.parallel
    if asked.cpu_offload and workers == 1:
        raise ConfigError("parallel.cpu_offload needs at least two workers: sharding does the offloading")
    sizes = resolve_sizes(asked, own, workers)
    if device == "gpu":
        kind = get_gpu(config.gpu or (own.gpu if own else "h100-80"))
    else:
        kind = Gpu("cpu", round(cluster.memory_gib / workers, 1), get_gpu("cpu").tflops / workers, workers)
    layout = replace(
        own or Layout(kind.name, 1),
        gpu=kind.name,
        fsdp_size=sizes.fsdp,
        tp_size=sizes.tp,
        ep_size=sizes.ep,
        dp_replicate_size=sizes.dp_replicate,
        micro_batch_size=asked.micro_batch_size or (own.micro_batch_size if own else 1),
        states=config.optimizer.states or (own.states if own else "fp32"),
        cpu_offload=asked.cpu_offload if asked.cpu_offload is not None else bool(own and own.cpu_offload),
    )
    return make_plan(
        architecture,
        layout,
        gpu=kind,
        seq_len=config.pack.seq_len,
        global_batch_size=config.global_batch_size,
        activation_checkpointing=asked.activation_checkpointing,
        logits_budget_mib=asked.logits_budget_mib,
        epochs=config.epochs,
        dtype_bytes=2 if _uses_bf16(config, device) else 4,
    )


def _uses_bf16(config: FinetuneConfig, device: str) -> bool:
    return config.dtype == "bf16" or (config.dtype == "auto" and device == "gpu")


def make_spec(job: Job, data: DataInfo) -> TrainSpec:
    """What the workers are told.

    Raises:
        ConfigError: The corpus has fewer sequences than one batch.
    """
    config, layout, train = job.config, job.plan.layout, data.content["splits"]["train"]
    steps = num_steps(train["num_sequences"], config.global_batch_size, config.epochs)
    gpu_kind = "gpu" if job.device == "cuda" else "cpu"
    model = ModelSpec(
        job.variant.source,
        job.variant.revision,
        _uses_bf16(config, gpu_kind),
        layout.cpu_offload,
        config.parallel.activation_checkpointing,
        config.parallel.logits_budget_mib,
        config.trust_remote_code,
    )
    flops = job.architecture.train_flops_per_token(train["num_tokens"] / train["num_documents"])
    on_gpu = job.device == "cuda"
    return TrainSpec(
        config=config,
        model=model,
        layout=job.variant.layout if on_gpu else None,
        states=layout.states,
        micro_batch_size=layout.micro_batch_size,
        device=job.device,
        data=str(data.folder),
        folder=str(job.folder.path),
        num_steps=min(steps, config.max_steps or steps),
        flops_per_token=flops,
        peak_flops=job.plan.gpu.tflops * 1e12 if on_gpu else None,
    )
