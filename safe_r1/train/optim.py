"""AdamW whose moments take 8, 4 or 2 bytes a parameter, its learning rate, and clipping over all meshes."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from safe_r1.errors import ConfigError
from safe_r1.models.registry import States
from safe_r1.train.config import OptimizerConfig


def make_optimizer(
    parameters: Iterable[Tensor], config: OptimizerConfig, states: States
) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors (norms, biases) do not.

    Args:
        parameters: Those that take part; frozen ones are left out.
        config: The settings.
        states: Type of the moments.

    Raises:
        ConfigError: ``8bit`` without torchao.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if parameter.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    if states == "fp32":
        # The fused form makes no copies while it updates.
        return torch.optim.AdamW(
            groups, fused=all(parameter.is_cuda for parameter in trained) or None, **settings
        )
    if states == "bf16":
        return AdamWBf16(groups, **settings)
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "optimizer.states=8bit needs torchao: pip install torchao, or choose bf16 or fp32"
        ) from None
    return AdamW8bit(groups, **settings)


def is_quantized(value: object) -> bool:
    """Is it a worker's part of a moment in 8 bits (torchao's tensor over codes and scales)?"""
    return (
        isinstance(value, Tensor) and not isinstance(value, DTensor) and is_traceable_wrapper_subclass(value)
    )


class AdamWBf16(torch.optim.Optimizer):
    """AdamW that keeps its two moments in bfloat16 and computes in the parameters' own type."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        count, (beta1, beta2) = state["step"].item(), group["betas"]
        first = state["exp_avg"].to(parameter.dtype).lerp_(grad, 1 - beta1)
        second = state["exp_avg_sq"].to(parameter.dtype).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["exp_avg"].copy_(first)
        state["exp_avg_sq"].copy_(second)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = second.div_(1 - beta2**count).sqrt_().add_(group["eps"])
        parameter.addcdiv_(first, scale, value=-group["lr"] / (1 - beta1**count))


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step, counted from 0: a straight warm-up, then half a cosine down to
    ``min_lr_share``.
    """
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, num_steps - warmup)
    share = config.min_lr_share + (1 - config.min_lr_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * share


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate from now on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # torchao compiles its update, where a number would be a constant
        else:
            group["lr"] = lr


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their norm is at most ``max_norm``; gives the norm they had.

    Dense layers and experts lie on different meshes, whose tensors cannot be put together: the squares of the
    norms are.
    """
    groups: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if (grad := parameter.grad) is not None:
            groups[(grad.device_mesh, grad.placements) if isinstance(grad, DTensor) else None].append(grad)
    square = 0.0
    for grads in groups.values():
        norm = torch.nn.utils.get_total_norm(grads)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        square += float(norm) ** 2
    total = math.sqrt(square)
    if total > max_norm:
        for grads in groups.values():
            for grad in grads:
                grad.mul_(max_norm / (total + 1e-6))
    return total
