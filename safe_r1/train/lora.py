"""Low-rank adapters (peft) on frozen weights, and merging them for an export.

Adapters are small, so every worker holds all of them; the gradients of those that FSDP does not shard are
averaged explicitly.
"""

from collections.abc import Callable, Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from safe_r1.errors import ConfigError
from safe_r1.train.config import LoraConfig
from safe_r1.train.parallel import ParallelDims

_ADAPTER = "default"


def add_adapters(model: nn.Module, config: LoraConfig, dims: ParallelDims) -> None:
    """Freeze the model and add adapters to the linear layers of its decoder layers.

    With equal random seeds the adapters are equal on all workers.

    Raises:
        ConfigError: Tensor parallelism is on, or peft is not installed.
    """
    if dims.tp > 1:
        raise ConfigError(
            "lora does not support tensor parallelism: set parallel.tp_size=1, adapters need little memory"
        )
    try:
        import peft
    except ImportError:
        raise ConfigError("--lora needs peft: pip install peft") from None
    model.requires_grad_(False)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # peft would also adapt routed experts, under parameter names of its own that the export does not know:
    # only the attention of a mixture-of-experts model is adapted.
    has_experts = any(name.endswith(".experts") for name, _ in model.named_modules())
    part = ".self_attn." if has_experts else "."
    targets = [name for name in linear if name.startswith("model.layers.") and part in name]
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets
    )
    peft.inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def average_unsharded_gradients(parameters: Iterable[Tensor], dims: ParallelDims) -> None:
    """Average over the workers the gradients that neither FSDP nor tensor parallelism reduces."""
    if dims.dp == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor) and dims.tp == 1:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dims.dp


def base_layer_name(name: str) -> str:
    """The name that peft gives a weight of a layer with an adapter."""
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.base_layer.{leaf}"


def delta_weight(name: str, config: LoraConfig, read: Callable[[str], Tensor]) -> Tensor:
    """What merging an adapter adds to a weight.

    Args:
        name: Name of the weight in the original model.
        config: Settings of the adapters.
        read: Reads a tensor of the checkpoint by its name.
    """
    stem = name.rpartition(".")[0]
    lora_a = read(f"{stem}.lora_A.{_ADAPTER}.weight")
    lora_b = read(f"{stem}.lora_B.{_ADAPTER}.weight")
    return config.alpha / config.rank * (lora_b @ lora_a)
