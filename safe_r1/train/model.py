"""The model that is trained: loaded in shards, with packed attention and a memory-limited loss.

All use of transformers' sharding is in this module, so that another sharding library would change one file.
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from safe_r1.errors import ModelError
from safe_r1.models.fetch import loadable
from safe_r1.train.architecture import from_config
from safe_r1.train.attention import AttentionChoice, Precision, head_sizes, select_attention
from safe_r1.train.config import Fp8Recipe
from safe_r1.train.fp8 import open_dequantized
from safe_r1.train.fp8_layers import use_fp8
from safe_r1.train.loading import check_loaded
from safe_r1.train.loss import summed_cross_entropy
from safe_r1.train.parallel import ParallelDims, local_world_size, spans_nodes
from safe_r1.train.train_plan import TrainPlan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ModelSpec:
    """What to load and how to compute with it.

    Attributes:
        source: Folder, hub id, URI, or ``modelscope:`` and an id.
        revision: Commit, or files pinned by ``models.fetch``.
        bf16: Compute in bfloat16; parameters, gradient reductions and the loss stay in fp32.
        cpu_offload: Keep parameters, gradients and optimizer states in host memory.
        activation_checkpointing: Recompute each layer in the backward pass.
        logits_budget_mib: Memory limit of the logits in MiB.
        trust_remote_code: Run code from the model's repository.
        compile_layers: Compile the forward pass of each layer, and the loss.
        recompute_every: With ``activation_checkpointing``: recompute every so many layers one.
        keep_routed_rows: Keep tokens that experts have received from other nodes for the backward pass.
        fp8: Compute the layers' matrix products in FP8, scaled in this way.
    """

    source: str
    revision: str = "main"
    bf16: bool = False
    cpu_offload: bool = False
    activation_checkpointing: bool = True
    logits_budget_mib: int = 512
    trust_remote_code: bool = False
    recompute_every: int = 1
    compile_layers: bool = False
    keep_routed_rows: bool = False
    fp8: Fp8Recipe | None = None

    @classmethod
    def of_plan(
        cls, plan: TrainPlan, source: str = "", revision: str = "main", trust_remote_code: bool = False
    ) -> "ModelSpec":
        """What computes as a plan assumes.

        Args:
            plan: The plan of the run.
            source: See the attributes, as for the following.
            revision: Of the source.
            trust_remote_code: Run code from the model's repository.
        """
        return cls(
            source,
            revision,
            bf16=plan.dtype_bytes == 2,
            cpu_offload=plan.layout.cpu_offload,
            activation_checkpointing=plan.activation_checkpointing,
            logits_budget_mib=plan.logits_budget_mib,
            trust_remote_code=trust_remote_code,
            recompute_every=plan.recompute_every,
            compile_layers=plan.compiled,
            keep_routed_rows=plan.layout.keep_routed_rows,
            fp8=plan.fp8,
        )


def load_model(spec: ModelSpec, dims: ParallelDims, device: str) -> "PreTrainedModel":
    """Load the model with fp32 parameters; each worker holds only its shard.

    ``model(**batch.model_inputs)`` gives the loss of a ``Batch``, summed over its label tokens.

    Raises:
        ModelError: The checkpoint cannot be read, lacks weights or has others, or the architecture has no
            sharding plan for these dimensions.
    """
    from transformers import AutoConfig

    source, revision = loadable(spec.source, spec.revision, weights=True)
    spec = replace(spec, source=source, revision=revision)
    try:
        config = AutoConfig.from_pretrained(
            spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        load = _select_loader(spec, config)
        model, report = load(
            config=config,
            # All that is wrong is in the report, which `check_loaded` refuses by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,  # master weights; FSDP or autocast computes in bf16
            attn_implementation=choose_attention(config, spec, dims, device).name,
            **_distributed_kwargs(spec, config, dims),
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{spec.source} cannot be loaded for training: {reason}") from None
    check_loaded(spec.source, model, report)
    if dims.world_size == 1:
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    return prepare_model(model, spec, dims, device)


def build_model(
    config: "PreTrainedConfig", spec: ModelSpec, dims: ParallelDims, device: str
) -> "PreTrainedModel":
    """The model of a configuration as ``load_model`` shards and prepares it, without weights.

    They are on the meta device until ``to_empty`` allocates them, for simulations of any size.

    Args:
        config: Configuration, with its attention implementation set.
        spec: Of which ``source`` and ``revision`` are not read.
        dims: Parallel dimensions; the process group is initialized where there is more than one worker.
        device: Where it will compute.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if sharding := _distributed_kwargs(spec, config, dims):
        # The steps of `from_pretrained` between initialization and loading.
        distributed, _, mesh = type(model).prepare_distribute_model(sharding["distributed_config"])
        model = type(model).maybe_distribute_model(model, distributed, mesh)
    return prepare_model(model, spec, dims, device)


def prepare_model(
    model: "PreTrainedModel", spec: ModelSpec, dims: ParallelDims, device: str
) -> "PreTrainedModel":
    """Set up a model for training, in place: as ``load_model`` does with what it has loaded.

    Args:
        model: On its device, with the attention implementation of ``choose_attention``.
        spec: How to compute with it; ``source`` and ``revision`` are not read.
        dims: Parallel dimensions of the run.
        device: ``cpu`` or ``cuda``.
    """
    checkpointing: dict[str, object] = {"use_reentrant": False}
    if dims.shards_experts:
        from safe_r1.train.experts import prefetch_experts

        prefetch_experts(model)
    if _sends_by_node(dims):
        from safe_r1.train.experts import compute_shared_experts_first, keep_routed_rows

        compute_shared_experts_first(model)
        if spec.keep_routed_rows:
            checkpointing["context_fn"] = keep_routed_rows(dims.ep)
    if spec.activation_checkpointing:
        model.activation_checkpointing_enable(checkpointing, every_n_layers=spec.recompute_every)
    if spec.fp8:
        use_fp8(model, spec.fp8, device)
    if spec.compile_layers:
        _compile_layers(model)
    # from_pretrained gives a model in evaluation mode.
    model.train()
    autocast = precision_of(spec, dims) == "autocast"
    _set_forward(model, functools.partial(_forward_loss, model, autocast=autocast, device=device))
    head = _output_layer(model)
    compute_loss = functools.partial(
        _head_loss, head, budget_mib=spec.logits_budget_mib, compiled=spec.compile_layers
    )
    _set_forward(head, compute_loss)
    return model


def precision_of(spec: ModelSpec, dims: ParallelDims) -> Precision:
    """How a worker computes.

    With one data-parallel worker there is no FSDP and so no mixed-precision policy: autocast takes its place.
    """
    if not spec.bf16:
        return "fp32"
    return "autocast" if dims.dp == 1 else "bf16"


def choose_attention(
    config: "PreTrainedConfig", spec: ModelSpec, dims: ParallelDims, device: str
) -> AttentionChoice:
    """The attention implementation with which ``load_model`` loads a model of this configuration."""
    heads = head_sizes(from_config(config.to_dict()))
    return select_attention(heads, precision_of(spec, dims), device)


def _compile_layers(model: "PreTrainedModel") -> None:
    """Compile layer by layer, which is fast because all have the same code, and keeps FSDP's prefetching.

    Only the forward is compiled: FSDP's hooks, which gather a layer's weights, stay outside.
    """
    layers = model.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        _set_forward(layer, torch.compile(layer.forward))


def _set_forward(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = forward


def _output_layer(model: "PreTrainedModel") -> nn.Linear:
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear), "a causal language model ends in a linear layer"
    return head


def _select_loader(
    spec: ModelSpec, config: "PreTrainedConfig"
) -> "Callable[..., tuple[PreTrainedModel, dict[str, Collection[object]]]]":
    """The ``from_pretrained`` of the model, with its report; R1's FP8 weights are dequantized while read.

    Raises:
        ValueError: The weights are quantized in another way.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedModel

    # Left in the configuration, it would make transformers build a quantized model.
    quantization = vars(config).pop("quantization_config", None)
    if not quantization:
        # With `output_loading_info` both give a pair, which their types do not say.
        return functools.partial(  # pyright: ignore[reportReturnType]
            AutoModelForCausalLM.from_pretrained,
            spec.source,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
        )
    settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = str(settings["quant_method"]).rpartition(".")[2].lower()
    block = settings.get("weight_block_size")
    if method != "fp8" or not block:
        raise ValueError(f"weights quantized by {method} cannot be trained: give an unquantized checkpoint")
    folder = Path(spec.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(spec.source, revision=spec.revision, allow_patterns=["*.safetensors"])
        )
    model_class: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # pyright: ignore[reportAssignmentType]
    weights = open_dequantized(folder, (block[0], block[1]))
    return functools.partial(model_class.from_pretrained, None, state_dict=weights)  # pyright: ignore[reportReturnType]


def _distributed_kwargs(spec: ModelSpec, config: "PreTrainedConfig", dims: ParallelDims) -> dict[str, object]:
    """Arguments of ``from_pretrained`` that shard the model; none for a single process."""
    if dims.world_size == 1:
        return {}
    from transformers.distributed.configuration_utils import DistributedConfig

    # The loss is computed in chunks of positions, so tensor parallelism must not split the output layer by
    # vocabulary, nor an embedding that shares its weights.
    tp_plan = {"lm_head": "replicate"}
    if config.tie_word_embeddings:  # pyright: ignore[reportAttributeAccessIssue]
        tp_plan["model.embed_tokens"] = "replicate"
    return {
        "distributed_config": DistributedConfig(
            dp_replicate_size=dims.dp_replicate,
            fsdp_size=dims.fsdp,
            tp_size=dims.tp,
            ep_size=dims.ep,
            tp_plan=tp_plan if dims.tp > 1 else None,
            fsdp_mixed_precision=spec.bf16,
            fsdp_cpu_offload=spec.cpu_offload,
            ep_implementation=_dispatch(dims),
        )
    }


def _dispatch(dims: ParallelDims) -> str:
    """Name of the way in which tokens reach their experts."""
    if not _sends_by_node(dims):
        return "auto"
    from safe_r1.train.experts import register_node_dispatch

    return register_node_dispatch()


def _sends_by_node(dims: ParallelDims) -> bool:
    """True where tokens are sent to each node once, not to each expert."""
    return spans_nodes(dims.ep, dims.tp, local_world_size())


def _forward_loss(
    model: "PreTrainedModel",
    *,
    autocast: bool,
    device: str,
    labels: Tensor,
    label_positions: Tensor,
    **inputs: object,
) -> Tensor:
    """The model's forward in training: the summed loss of a batch."""
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        hidden = model.base_model(use_cache=False, **inputs)[0]
    # Outside of autocast, which would keep its bf16 copies of all weights beside the logits.
    hidden = hidden.flatten(0, 1).index_select(0, label_positions)
    return _output_layer(model)(hidden.bfloat16() if autocast else hidden, labels)


def _head_loss(head: nn.Linear, hidden: Tensor, labels: Tensor, *, budget_mib: int, compiled: bool) -> Tensor:
    """The output layer's forward in training.

    The loss is computed inside the layer's own forward, where FSDP has its weights gathered.
    """
    return summed_cross_entropy(hidden, head.weight, labels, budget_mib, compiled)
