"""Settings of a fine-tuning run; every default stands on its field."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from safe_r1.config import Settings
from safe_r1.models.registry import States


class PackConfig(Settings):
    """From conversations to packed sequences."""

    seq_len: int = Field(default=8192, ge=32, description="tokens of a packed sequence")
    too_long: Literal["drop", "cut"] = Field(
        default="drop", description="what becomes of a row longer than seq_len"
    )


class ParallelConfig(Settings):
    """How the model is spread. None means: as the variant's layout in ``safe_r1.models.registry`` says, else
    one shard a worker.
    """

    fsdp_size: int | None = Field(
        default=None, ge=1, description="workers that share one copy of the parameters"
    )
    tp_size: int | None = Field(default=None, ge=1)
    ep_size: int | None = Field(default=None, ge=1, description="workers that share the experts of a mixture")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="packed sequences a worker computes at once"
    )
    cpu_offload: bool | None = Field(
        default=None, description="parameters, gradients and optimizer states in host memory"
    )
    activation_checkpointing: bool = True
    logits_budget_mib: int = Field(
        default=512, ge=1, description="memory for logits; the loss is computed in pieces that fit"
    )


class OptimizerConfig(Settings):
    """AdamW with warm-up and cosine."""

    lr: float = Field(default=1e-5, gt=0)
    min_lr_share: float = Field(
        default=0.1, ge=0, le=1, description="learning rate at the end, as a share of lr"
    )
    warmup_share: float = Field(default=0.03, ge=0, lt=1, description="of all steps")
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    states: States | None = Field(
        default=None, description="type of the moments; None: as the variant's layout says"
    )


class LoraConfig(Settings):
    """Low-rank adapters in place of training every parameter; merged on export."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1, description="the adapters' product counts alpha / rank")


class SaveConfig(Settings):
    """Validation, checkpoints and reasons to stop."""

    every: int = Field(
        default=50, ge=1, description="steps between validations, each with a checkpoint; one more at the end"
    )
    max_validation: int = Field(
        default=64, ge=1, description="validation sequences of each kind, the first ones"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many validations without a better loss"
    )
    max_loss_ratio: float = Field(
        default=5.0, gt=1, description="stop at a loss so many times the median of the last steps"
    )


class FinetuneConfig(Settings):
    """One fine-tuning run: one variant on one corpus."""

    variant: str = Field(description="a name of `safe-r1 models`, a hub id, or a folder")
    corpus: str = Field(description="folder or URI that build_corpus wrote")
    output: str = "finetuned"
    run: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run inside the output",
    )
    num_workers: str | None = Field(
        default=None, description="N, or MIN-MAX for elastic; None: as the variant's layout says"
    )
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpu: str | None = Field(
        default=None, description="what the cluster's GPUs are, for the plan; None: the layout's"
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of the computation; auto: fp32 on CPU"
    )
    epochs: int = Field(default=2, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    global_batch_size: int = Field(
        default=64, ge=1, description="packed sequences in an optimizer step, over all workers"
    )
    seed: int = Field(default=0, ge=0)
    max_failures: int = Field(default=3, ge=0, description="losses of workers before the job gives up")
    resume: bool = Field(default=False, description="only go on with a run that is there; never begin one")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    trust_remote_code: bool = Field(
        default=False, description="runs code from the model's repository; never on by itself"
    )
    lora: LoraConfig | None = None
    pack: PackConfig = Field(default=PackConfig())
    parallel: ParallelConfig = Field(default=ParallelConfig())
    optimizer: OptimizerConfig = Field(default=OptimizerConfig())
    save: SaveConfig = Field(default=SaveConfig())

    @field_validator("num_workers", mode="before")
    @classmethod
    def _workers(cls, value: object) -> str | None:
        if value is None or re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", str(value)):
            return None if value is None else str(value)
        raise ValueError("expected N or MIN-MAX, e.g. 8 or 4-16")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.worker_range or (1, 1)
        if low > high:
            raise ValueError(f"num_workers {self.num_workers}: the smaller number comes first")
        return self

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """Fewest and most workers; None where the layout decides."""
        if self.num_workers is None:
            return None
        low, _, high = self.num_workers.partition("-")
        return int(low), int(high or low)
