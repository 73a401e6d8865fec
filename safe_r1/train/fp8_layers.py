"""Linear layers whose three matrix products are computed in FP8, by torchao.

Weights stay as they are: fp32, under their names, sharded by FSDP. Before each product torchao scales both
factors to the range of FP8: with ``rowwise`` each row by its own scale, with ``tensorwise`` a whole matrix by
one, which is faster and less exact. On CPU the products are emulated, on values that are rounded in the same
way.

Left in bf16 are the output layer and the embedding, whose errors reach the loss directly; routers, which
compare scores that differ little; routed experts, which are stacked tensors and no linear layers; and
matrices with a dimension that is no multiple of 16, which the kernels refuse.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from safe_r1.errors import ConfigError
from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import Layout
from safe_r1.train.config import FinetuneConfig, Fp8Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MULTIPLE = 16
"""Of which all dimensions of an FP8 product are multiples, the number of tokens too."""
# Compute capability of the first GPUs with FP8 matrix products (Ada).
_CAPABILITY = (8, 9)
_ROUTERS = ("gate", "router")


def check_fp8(config: FinetuneConfig, layout: Layout, is_bf16: bool) -> None:
    """Check that FP8 layers go with the other settings of a run.

    Args:
        config: The settings.
        layout: GPUs and sharding.
        is_bf16: The rest is computed in bf16.

    Raises:
        ConfigError: They do not.
    """
    if config.lora:
        raise ConfigError(
            "fp8 saves nothing with lora, as torchao computes the gradients of frozen weights too: omit one"
        )
    if not is_bf16:
        raise ConfigError("fp8 needs bf16 for all that is not in FP8: set dtype=bf16")
    if layout.tp_size > 1:
        raise ConfigError("fp8 does not go with tensor parallelism: set parallel.tp_size=1, or omit fp8")
    gpu = get_gpu(layout.gpu)
    # On CPU it is emulated.
    if not gpu.fp8_tflops and gpu.name != "cpu":
        raise ConfigError(f"fp8: {gpu.name} has no FP8 matrix products: omit fp8")


def has_fp8() -> bool:
    """True if this worker's GPU has FP8 matrix products."""
    return torch.cuda.get_device_capability() >= _CAPABILITY


def use_fp8(model: "PreTrainedModel", recipe: Fp8Recipe, device: str) -> list[str]:
    """Let the linear layers of the decoder layers compute in FP8, in place.

    Args:
        model: Loaded, and sharded if it is.
        recipe: How the factors of a product are scaled.
        device: ``cpu`` or ``cuda``.

    Returns:
        Names of the layers.

    Raises:
        ConfigError: torchao is not installed, the GPU has no FP8 products, or the model has no such layer.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise ConfigError("fp8 needs torchao: pip install torchao, or omit fp8") from None
    if device == "cuda" and not has_fp8():
        raise ConfigError(
            f"fp8: {torch.cuda.get_device_name()} has no FP8 matrix products, which came with compute "
            f"capability {_CAPABILITY[0]}.{_CAPABILITY[1]}: omit fp8"
        )
    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=device == "cpu")
    layers: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if _is_suitable(name, module)
    }
    if not layers:
        raise ConfigError(f"fp8: no linear layer has dimensions that are multiples of {MULTIPLE}: omit fp8")
    for layer in layers.values():
        # FSDP fills in the weights of the module that it has found, so that this one has to stay: it takes
        # class and settings of its conversion.
        converted = convert_to_float8_training(layer, config=config)
        layer.__class__ = type(converted)
        layer.__dict__ = vars(converted) | vars(layer)
    return list(layers)


def _is_suitable(name: str, module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Linear)
        and ".layers." in f".{name}"
        and name.rpartition(".")[2] not in _ROUTERS
        and all(size % MULTIPLE == 0 for size in module.weight.shape)
    )
