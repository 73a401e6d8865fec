"""The model that is trained: loaded in shards, with packed attention and a loss that never holds all logits.

Everything here that touches transformers' sharding is in this module, so that another way of sharding changes
one file.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safe_r1.errors import ModelError
from safe_r1.train.attention import pick_attention
from safe_r1.train.fp8 import read_plain
from safe_r1.train.loss import shift_labels, summed_cross_entropy
from safe_r1.train.parallel import Sizes


@dataclass(frozen=True)
class ModelSpec:
    """What to load and how to compute with it.

    Attributes:
        source: Folder or hub id.
        revision: Commit.
        bf16: Compute in bfloat16 (parameters, reductions and the loss stay in fp32).
        cpu_offload: Keep parameters, gradients and optimizer states in host memory.
        activation_checkpointing: Compute each layer again for its gradient.
        logits_budget_mib: Memory for logits.
        trust_remote_code: Run code from the model's repository.
    """

    source: str
    revision: str = "main"
    bf16: bool = False
    cpu_offload: bool = False
    activation_checkpointing: bool = True
    logits_budget_mib: int = 512
    trust_remote_code: bool = False


def load_model(spec: ModelSpec, sizes: Sizes, device: str) -> Any:
    """The model with fp32 parameters, each worker holding its shard alone; call it as ``model(**batch)`` for
    the summed loss.

    ``batch``: ``input_ids``, ``position_ids`` and ``labels`` of shape (batch, seq), and what the attention
        asks for.

    Raises:
        ModelError: The checkpoint cannot be read, or the architecture has no plan for these sizes.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        model: Any = _reader(spec, config)(
            config=config,
            dtype=torch.float32,
            attn_implementation=pick_attention(device),
            **_distributed(spec, config, sizes),
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{spec.source} cannot be loaded for training: {str(error).strip().splitlines()[0]}"
        ) from None
    if sizes.world == 1:
        model.to(device)
    if spec.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.forward = functools.partial(_forward, model, bf16=spec.bf16 and sizes.dp == 1, device=device)
    model.lm_head.forward = functools.partial(_head, model.lm_head, budget_mib=spec.logits_budget_mib)
    return model


def _reader(spec: ModelSpec, config: Any) -> Callable[..., Any]:
    """What loads the weights; R1's FP8 ones become plain while they are read."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    quantized = vars(config).pop("quantization_config", None)
    if not quantized:
        return functools.partial(
            AutoModelForCausalLM.from_pretrained,
            spec.source,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
        )
    settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
    method, block = (
        str(settings["quant_method"]).rpartition(".")[2].lower(),
        settings.get("weight_block_size"),
    )
    if method != "fp8" or not block:
        raise ValueError(f"weights quantized by {method} cannot be trained: give the plain checkpoint")
    folder = Path(spec.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(spec.source, revision=spec.revision, allow_patterns=["*.safetensors"])
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return functools.partial(
        model_class.from_pretrained, None, state_dict=read_plain(folder, (block[0], block[1]))
    )


def _distributed(spec: ModelSpec, config: Any, sizes: Sizes) -> dict[str, Any]:
    if sizes.world == 1:
        return {}
    from transformers.distributed.configuration_utils import DistributedConfig

    # The head computes the loss in pieces of positions, so it is not cut by its vocabulary, nor are tied
    # embeddings.
    whole = {"lm_head": "replicate"} | (
        {"model.embed_tokens": "replicate"} if config.tie_word_embeddings else {}
    )
    return {
        "distributed_config": DistributedConfig(
            dp_replicate_size=sizes.dp_replicate,
            fsdp_size=sizes.fsdp,
            tp_size=sizes.tp,
            ep_size=sizes.ep,
            tp_plan=whole if sizes.tp > 1 else None,
            fsdp_mixed_precision=spec.bf16,
            fsdp_cpu_offload=spec.cpu_offload,
        )
    }


def _forward(model: Any, *, bf16: bool, device: str, labels: Tensor, **inputs: Any) -> Tensor:
    """The summed loss of a batch. One worker alone has no mixed precision of FSDP, so it casts by itself."""
    with torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext():
        hidden = model.model(use_cache=False, **inputs)[0]
        return model.lm_head(hidden, shift_labels(labels))


def _head(head: Any, hidden: Tensor, labels: Tensor, *, budget_mib: int) -> Tensor:
    return summed_cross_entropy(hidden, head.weight, labels, budget_mib)


@contextlib.contextmanager
def as_generator(model: Any) -> Iterator[Any]:
    """The model with its own forward back in place, for logits and generation."""
    forwards = model.__dict__.pop("forward"), model.lm_head.__dict__.pop("forward")
    model.eval()
    try:
        yield model
    finally:
        model.forward, model.lm_head.forward = forwards
        model.train()
