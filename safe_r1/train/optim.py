"""AdamW with moments of 8, 4 or 2 bytes per parameter, its learning rate, and gradient clipping."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from safe_r1.errors import ConfigError
from safe_r1.models.registry import States
from safe_r1.train.config import OptimizerConfig


def make_optimizer(
    parameters: Iterable[Tensor], config: OptimizerConfig, states: States
) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, not on vectors (norms, biases).

    Args:
        parameters: Of the model; frozen ones are left out.
        config: The settings.
        states: Data type of the moments.

    Raises:
        ConfigError: ``8bit`` without torchao.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    if states == "fp32":
        # The fused implementation makes no copies during the update.
        fused = all(parameter.is_cuda for parameter in trainable) or None
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)
    if states == "bf16":
        return AdamWBf16(groups, lr=config.lr, betas=betas, eps=config.eps)
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "optimizer.states=8bit needs torchao: pip install torchao, or choose bf16 or fp32"
        ) from None
    return AdamW8bit(groups, lr=config.lr, betas=betas, eps=config.eps)


def is_quantized(value: object) -> bool:
    """True for a worker's shard of an 8-bit moment (torchao's tensor subclass with codes and scales)."""
    return (
        isinstance(value, Tensor) and not isinstance(value, DTensor) and is_traceable_wrapper_subclass(value)
    )


class AdamWBf16(torch.optim.Optimizer):
    """AdamW that stores its two moments in bfloat16 and computes in the data type of the parameters."""

    def __init__(
        self, params: ParamsT, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(
                        parameter,
                        parameter.grad,
                        lr=group["lr"],
                        betas=group["betas"],
                        eps=group["eps"],
                        weight_decay=group["weight_decay"],
                    )

    def _update(
        self,
        parameter: Tensor,
        grad: Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        step = state["step"].item()
        beta1, beta2 = betas
        # This step uses the moments in the parameters' data type; only the stored ones are rounded to bf16.
        first = state["exp_avg"].to(parameter.dtype).lerp_(grad, 1 - beta1)
        second = state["exp_avg_sq"].to(parameter.dtype).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["exp_avg"].copy_(first)
        state["exp_avg_sq"].copy_(second)
        # Decoupled weight decay, then Adam's step with both bias corrections.
        parameter.mul_(1 - lr * weight_decay)
        denominator = second.div_(1 - beta2**step).sqrt_().add_(eps)
        parameter.addcdiv_(first, denominator, value=-lr / (1 - beta1**step))


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step: a linear warm-up, then cosine decay to ``min_lr_share`` of the peak.

    Args:
        config: The settings.
        step: Counted from 0.
        num_steps: Steps of the whole run.
    """
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, num_steps - warmup)
    share = config.min_lr_share + (1 - config.min_lr_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * share


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            # torchao compiles its update, in which a Python number would become a constant.
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients so that their global norm is at most ``max_norm``.

    Dense layers and experts are on different device meshes, and torch cannot combine tensors of several
    meshes; so the norm of each mesh is computed separately and their squares are added.

    Returns:
        The norm before, an fp64 number on the gradients' device: the host does not wait for it.
    """
    groups: dict[object, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if (grad := parameter.grad) is not None:
            mesh = (grad.device_mesh, grad.placements) if isinstance(grad, DTensor) else None
            groups[mesh].append(grad)
    if not groups:
        return torch.zeros((), dtype=torch.float64)
    squares: list[Tensor] = []
    for grads in groups.values():
        norm = torch.nn.utils.get_total_norm(grads)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        squares.append(norm.double() ** 2)
    total = torch.stack(squares).sum().sqrt()
    # As torch's clip_grad_norm_, which adds 1e-6 to the divisor too. One where nothing is to be clipped.
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for grads in groups.values():
        shards = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
        torch._foreach_mul_(shards, scale.to(shards[0]))  # pyright: ignore[reportPrivateImportUsage]
    return total
