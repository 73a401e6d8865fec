"""Low-rank adapters (peft) beside frozen weights, and their product with which an export merges them.

Adapters are small, so every worker holds all of them; their gradients are averaged by hand where sharding
does not do it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from safe_r1.errors import ConfigError
from safe_r1.train.config import LoraConfig
from safe_r1.train.parallel import Sizes

_NAME = "default"


def add_adapters(model: Any, config: LoraConfig, sizes: Sizes) -> None:
    """Freeze the model and put adapters beside the linear layers of its blocks, equal on all workers at equal
    seeds.

    Raises:
        ConfigError: Tensor parallelism, or a missing library.
    """
    if sizes.tp > 1:
        raise ConfigError(
            "lora does not go with tensor parallelism: set parallel.tp_size=1, adapters need little memory"
        )
    try:
        import peft
    except ImportError:
        raise ConfigError("--lora needs peft: pip install peft") from None
    model.requires_grad_(False)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    # peft would put adapters into the routed experts of a mixture, by names of its own: its attention alone
    # is adapted.
    part = ".self_attn." if any(name.endswith(".experts") for name, _ in model.named_modules()) else "."
    targets = [name for name in linear if name.startswith("model.layers.") and part in name]
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets
    )
    peft.inject_adapter_in_model(settings, model, adapter_name=_NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def average_plain_gradients(parameters: Iterable[torch.Tensor], sizes: Sizes) -> None:
    """Average over the workers the gradients of parameters that no sharding takes care of."""
    if sizes.dp == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor) and sizes.tp == 1:
            dist.all_reduce(parameter.grad)
            parameter.grad /= sizes.dp


def base_name(name: str) -> str:
    """Name that a weight has while an adapter stands beside it."""
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.base_layer.{leaf}"


def product(name: str, config: LoraConfig, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """What an adapter adds to the weight of this name; ``read`` gives a tensor of the checkpoint by its name."""
    stem = name.rpartition(".")[0]
    down, up = (read(f"{stem}.lora_{side}.{_NAME}.weight") for side in ("A", "B"))
    return config.alpha / config.rank * (up @ down)
