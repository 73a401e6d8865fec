"""Settings of a fine-tuning run; the default of each is on its field."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from safe_r1.config import TrackerName
from safe_r1.models.registry import States
from safe_r1.settings import Settings

Fp8Recipe = Literal["rowwise", "tensorwise"]
"""How the factors of an FP8 product are scaled: row by row, or as a whole."""


class PackConfig(Settings):
    """Sequence packing."""

    seq_len: int = Field(default=8192, ge=32, description="tokens of a packed sequence")
    too_long: Literal["drop", "cut"] = Field(
        default="drop", description="documents longer than seq_len: drop them, or cut off their end"
    )


class ParallelConfig(Settings):
    """Parallelism, micro-batches and memory savings.

    None means: as in the variant's layout in ``safe_r1.models.registry``; for another fixed number of GPUs
    the sharding whose step is the fastest by the plan; else fully sharded (FSDP).
    """

    fsdp_size: int | None = Field(
        default=None, ge=1, description="workers that share one copy of the parameters"
    )
    tp_size: int | None = Field(default=None, ge=1, description="tensor-parallel workers")
    ep_size: int | None = Field(
        default=None, ge=1, description="expert-parallel workers of a mixture-of-experts model"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="packed sequences in one forward pass of a worker"
    )
    cpu_offload: bool | None = Field(
        default=None, description="keep parameters, gradients and optimizer states in host memory"
    )
    host_memory_gib: float | None = Field(
        default=None, gt=0, description="memory of a node in GiB, for the plan; None: as the GPU type's"
    )
    keep_routed_rows: bool | None = Field(
        default=None,
        description=(
            "keep tokens that came to experts from other nodes for the backward pass, not send them again; "
            "without it, where memory allows"
        ),
    )
    activation_checkpointing: bool = Field(
        default=True, description="recompute each layer in the backward pass to save memory"
    )
    recompute_every: int | None = Field(
        default=None,
        ge=1,
        description="with activation_checkpointing: recompute every k-th layer only, which takes more memory "
        "and less time; None: on GPUs as few layers as their memory allows by the plan, on CPU every layer",
    )
    logits_budget_mib: int = Field(
        default=512, ge=1, description="memory limit of the logits; the loss is computed in chunks that fit"
    )
    compile: bool = Field(
        default=False,
        description="compile layers and loss with torch.compile; the first steps then take minutes longer",
    )
    defer_gradient_reduction: bool = Field(
        default=False,
        description="reduce gradients over the workers once per step in place of once per micro-batch; every "
        "worker then holds the gradients of all parameters in fp32",
    )
    timeout_s: int = Field(
        default=600,
        ge=1,
        description="how long a worker waits for the others in a training step before the run counts as hung",
    )


class OptimizerConfig(Settings):
    """AdamW with a linear warm-up and cosine decay."""

    lr: float = Field(default=1e-5, gt=0, description="peak learning rate")
    min_lr_share: float = Field(
        default=0.1, ge=0, le=1, description="learning rate at the end, as a fraction of lr"
    )
    warmup_share: float = Field(
        default=0.03, ge=0, lt=1, description="length of the warm-up, as a fraction of all steps"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay")
    # The betas with which DeepSeek-V3 was trained; PyTorch's default for beta2 is 0.999.
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the first moment")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's decay of the second moment")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this global norm")
    states: States | None = Field(
        default=None, description="data type of the moments; None: as in the variant's layout"
    )


class LoraConfig(Settings):
    """Low-rank adapters instead of training all parameters; they are merged on export."""

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: int = Field(default=32, ge=1, description="adapter outputs are scaled by alpha / rank")


class SaveConfig(Settings):
    """Validation, checkpoints and early stopping."""

    every: int = Field(
        default=50, ge=1, description="steps between checkpoints, each with a validation; the last step too"
    )
    max_validation: int = Field(
        default=64, ge=1, description="maximum number of validation sequences of each kind"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many validations in a row without a lower loss, or with "
        "keep_best=safety after this many safety checks without a better score",
    )
    keep_best: Literal["validation", "safety"] = Field(
        default="validation",
        description="export the step with the lowest validation loss, or the one that does best in small "
        "evaluations of refusal and over-refusal (safety_check.*)",
    )
    max_loss_ratio: float = Field(
        default=5.0, gt=1, description="stop if the loss exceeds this multiple of the recent median"
    )

    dtype: Literal["original", "bf16", "fp16", "fp32"] = Field(
        default="original", description="data type of the exported weights; original: as the model came"
    )

    def ends_early(self, num_worse: int) -> bool:
        """True if so many validations in a row were no better than before that training ends."""
        return self.patience is not None and num_worse >= self.patience


class SafetyCheckConfig(Settings):
    """Small evaluations during training, by which ``save.keep_best=safety`` chooses the exported step."""

    every: int = Field(default=100, ge=1, description="steps between evaluations; the last step too")
    questions: tuple[str, ...] = Field(
        default=(),
        description="files of questions to refuse and to answer, as for evaluate's --benchmark; empty: the "
        "prompts of the corpus's validation rows",
    )
    limit: int = Field(default=64, ge=1, description="maximum number of questions of each kind")
    max_tokens: int | None = Field(
        default=None, ge=1, description="longest completion in tokens; None: as in an evaluation of the model"
    )
    judge: str = Field(default="lexicon", description="judge of the answers, as for evaluate's --judge")


class FinetuneConfig(Settings):
    """One fine-tuning run: one variant on one corpus."""

    variant: str = Field(description="a name of `safe-r1 models`, a hub id, a folder, or a URI")
    corpus: str = Field(description="folder or URI that build_corpus wrote")
    output: str = Field(default="finetuned", description="folder or URI of checkpoints and exported model")
    run: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run inside the output",
    )
    num_workers: str | None = Field(
        default=None, description="N, or MIN-MAX for elastic training; None: as in the variant's layout"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="auto: gpu where the cluster has one"
    )
    gpu: str | None = Field(
        default=None, description="GPU type of the cluster, for the plan; None: as in the variant's layout"
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="compute data type; auto: bf16 on GPU, fp32 on CPU"
    )
    fp8: Fp8Recipe | None = Field(
        default=None,
        description="matrix products of the layers in FP8, with a scale for each row, or faster and less "
        "exact for each matrix (tensorwise); best with parallel.compile; None: as dtype",
    )
    epochs: int = Field(default=2, ge=1, description="passes over the corpus")
    max_steps: int | None = Field(
        default=None, ge=1, description="maximum number of optimizer steps; None: as the epochs give"
    )
    global_batch_size: int = Field(
        default=64, ge=1, description="packed sequences per optimizer step, over all workers"
    )
    seed: int = Field(default=0, ge=0, description="order of the sequences, and initial adapters")
    max_failures: int = Field(default=3, ge=0, description="worker failures before the job stops")
    resume: bool = Field(default=False, description="fail unless there is a run to resume")
    trackers: tuple[TrackerName, ...] = Field(
        default=("tensorboard",),
        description="experiment trackers that receive the metrics; the list replaces the default",
    )
    trust_remote_code: bool = Field(
        default=False, description="run code from the model's repository; must be set explicitly"
    )
    lora: LoraConfig | None = Field(
        default=None, description="low-rank adapters in place of all parameters; None: full fine-tuning"
    )
    pack: PackConfig = Field(default=PackConfig())
    parallel: ParallelConfig = Field(default=ParallelConfig())
    optimizer: OptimizerConfig = Field(default=OptimizerConfig())
    save: SaveConfig = Field(default=SaveConfig())
    safety_check: SafetyCheckConfig = Field(default=SafetyCheckConfig())

    @field_validator("num_workers", mode="before")
    @classmethod
    def _check_num_workers(cls, value: object) -> str | None:
        # YAML reads a plain number as int.
        if value is None:
            return None
        if re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", str(value)):
            return str(value)
        raise ValueError("expected N or MIN-MAX, e.g. 8 or 4-16")

    @model_validator(mode="after")
    def _check_worker_range(self) -> Self:
        low, high = self.worker_range or (1, 1)
        if low > high:
            raise ValueError(f"num_workers {self.num_workers}: put the smaller number first")
        return self

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """Minimum and maximum number of workers; None: as in the variant's layout."""
        if self.num_workers is None:
            return None
        low, _, high = self.num_workers.partition("-")
        return int(low), int(high or low)
