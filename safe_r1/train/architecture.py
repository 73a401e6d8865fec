"""Dimensions of a model, its number of parameters and its training FLOPs.

No weights are loaded: everything follows from ``config.json``; those of the R1 family are included here.

Source: the models' config.json on the hub; transformers' Qwen2, Llama and DeepseekV3 for which modules have
    weights and biases.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_r1.errors import ModelError
from safe_r1.models.checkpoints import pin, require_weights
from safe_r1.models.fetch import fetch
from safe_r1.models.files import CONFIG_FILE
from safe_r1.models.registry import Variant, read_json

FAMILIES = ("qwen2", "llama", "deepseek_v3")

HFConfig = Mapping[str, Any]
"""Content of a Hugging Face ``config.json``; its keys depend on the model type."""


@dataclass(frozen=True)
class LatentAttention:
    """DeepSeek's multi-head latent attention (MLA): low-rank projections of queries, keys and values."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def qk_head_dim(self) -> int:
        """Dimension of the queries and keys of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(frozen=True)
class Experts:
    """Mixture-of-experts layers, which replace the MLP in all layers after the first ``first_dense``.

    The router takes the ``per_token`` experts of a token from ``groups_per_token`` of ``num_groups`` groups.
    """

    num: int
    per_token: int
    num_shared: int
    intermediate_size: int
    first_dense: int
    num_groups: int = 1
    groups_per_token: int = 1

    def nodes_per_token(self, num_nodes: int) -> float:
        """Expected number of nodes that have an expert of a token, if experts are spread over nodes in order.

        A group is chosen for its best experts, so one expert of each chosen group is certain; the others are
        equally likely.
        """
        groups_per_node = self.num_groups // num_nodes
        if groups_per_node:
            missed = math.comb(self.num_groups - groups_per_node, self.groups_per_token)
            return num_nodes * (1 - missed / math.comb(self.num_groups, self.groups_per_token))
        # A node has a part of one group.
        group_size = self.num // self.num_groups
        size = self.num // num_nodes
        others = self.groups_per_token * (group_size - 1)
        drawn = self.per_token - self.groups_per_token
        missed = (1 - size / group_size) * math.comb(others - size, drawn) / math.comb(others, drawn)
        return num_nodes * self.groups_per_token / self.num_groups * (1 - missed)


@dataclass(frozen=True)
class Architecture:
    """Dimensions of a causal language model.

    Attributes:
        family: ``qwen2``, ``llama`` or ``deepseek_v3``.
        context: Maximum sequence length in tokens.
        tied: The output layer shares its weights with the embedding.
        qkv_bias: The query, key and value projections have a bias (MLA: the down-projections).
        output_bias: The attention's output projection has a bias.
        mlp_bias: The three projections of the MLP have a bias.
        latent: Dimensions of MLA; None for ordinary attention.
        experts: Dimensions of the mixture of experts; None for a dense model.
    """

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    latent: LatentAttention | None = None
    experts: Experts | None = None

    @property
    def num_expert_layers(self) -> int:
        """Number of layers with routed experts."""
        return self.num_layers - self.experts.first_dense if self.experts else 0

    @property
    def embedding_params(self) -> int:
        """Parameters of the embedding; the output layer has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def attention_params(self) -> int:
        """Parameters of one attention module, with its biases and MLA's norms."""
        hidden = self.hidden_size
        heads = self.num_heads
        if self.latent is None:
            q = heads * self.head_dim
            kv = self.num_kv_heads * self.head_dim
            return 2 * hidden * (q + kv) + self.qkv_bias * (q + 2 * kv) + self.output_bias * hidden
        latent = self.latent
        # One projection makes the key-value latent, which has a norm, and the rotary part of all keys.
        kv_down = latent.kv_lora_rank + latent.qk_rope_head_dim
        keys = hidden * kv_down + self.qkv_bias * kv_down + latent.kv_lora_rank
        values = latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        queries = hidden * heads * latent.qk_head_dim
        if rank := latent.q_lora_rank:
            # Down-projection with its bias, norm, up-projection.
            queries = rank * (hidden + heads * latent.qk_head_dim + 1 + self.qkv_bias)
        return queries + keys + values + heads * latent.v_head_dim * hidden + self.output_bias * hidden

    def mlp_params(self, width: int) -> int:
        """Parameters of one gated MLP with this intermediate size."""
        return 3 * self.hidden_size * width + self.mlp_bias * (2 * width + self.hidden_size)

    @property
    def shared_expert_size(self) -> int:
        """Intermediate size of all shared experts together."""
        return self.experts.num_shared * self.experts.intermediate_size if self.experts else 0

    @property
    def expert_params(self) -> int:
        """Parameters of one routed expert."""
        return 3 * self.hidden_size * self.experts.intermediate_size if self.experts else 0

    def layer_params(self, with_experts: bool) -> int:
        """Parameters of one layer: attention, two norms, and the MLP or the shared experts and router.

        Routed experts are not counted.
        """
        # The router has one row per expert.
        common = self.attention_params + 2 * self.hidden_size
        if not (with_experts and self.experts):
            return common + self.mlp_params(self.intermediate_size)
        return common + self.mlp_params(self.shared_expert_size) + self.experts.num * self.hidden_size

    @property
    def dense_params(self) -> int:
        """All parameters except the routed experts."""
        num_dense = self.num_layers - self.num_expert_layers
        layers = num_dense * self.layer_params(False) + self.num_expert_layers * self.layer_params(True)
        return layers + (1 if self.tied else 2) * self.embedding_params + self.hidden_size

    @property
    def routed_params(self) -> int:
        """Parameters of all routed experts."""
        return self.num_expert_layers * self.experts.num * self.expert_params if self.experts else 0

    @property
    def total_params(self) -> int:
        """All parameters, without the multi-token-prediction layers."""
        return self.dense_params + self.routed_params

    @property
    def active_params(self) -> int:
        """Parameters used for one token."""
        per_token = self.experts.per_token if self.experts else 0
        return self.dense_params + self.num_expert_layers * per_token * self.expert_params

    def train_flops_per_token(self, document_tokens: float) -> float:
        """FLOPs of the forward and backward pass of one token, without recomputation.

        Six per parameter in a matrix product (the embedding is a lookup), plus attention, which is causal and
        limited to one document: on average a token attends to half of ``document_tokens``.
        """
        matmul_params = self.active_params - (0 if self.tied else self.embedding_params)
        head_dims = self.latent.qk_head_dim + self.latent.v_head_dim if self.latent else 2 * self.head_dim
        return 6.0 * matmul_params + 3.0 * self.num_layers * self.num_heads * head_dims * document_tokens


def from_config(config: HFConfig) -> Architecture:
    """The architecture that a Hugging Face ``config.json`` describes.

    Raises:
        ModelError: Unsupported model type, or a missing dimension.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"model_type {family!r}: training supports {', '.join(FAMILIES)}")
    try:
        return _from_config(family, config)
    except KeyError as error:
        raise ModelError(
            f"config.json of a {family} model has no {error}; expected a complete configuration"
        ) from None


def _from_config(family: str, config: HFConfig) -> Architecture:
    heads = config["num_attention_heads"]
    bias = bool(config.get("attention_bias"))
    # Qwen2's attention always has query, key and value biases; its configuration has no setting for them.
    return Architecture(
        family,
        config["hidden_size"],
        config["num_hidden_layers"],
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or config["hidden_size"] // heads,
        config["intermediate_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
        bool(config.get("tie_word_embeddings")),
        qkv_bias=family == "qwen2" or bias,
        output_bias=family != "qwen2" and bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias")),
        latent=_latent(config) if family == "deepseek_v3" else None,
        experts=_experts(config) if family == "deepseek_v3" else None,
    )


def _latent(config: HFConfig) -> LatentAttention:
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return LatentAttention(config.get("q_lora_rank"), *(config[name] for name in names))


def _experts(config: HFConfig) -> Experts:
    names = (
        "n_routed_experts",
        "num_experts_per_tok",
        "n_shared_experts",
        "moe_intermediate_size",
        "first_k_dense_replace",
    )
    num_groups = config.get("n_group") or 1
    return Experts(
        *(config[name] for name in names),
        num_groups=num_groups,
        groups_per_token=config.get("topk_group") or num_groups,
    )


# Of these models, only the Qwen2.5 ones have query, key and value biases.
ARCHITECTURES: dict[str, Architecture] = {
    "r1-distill-qwen-1.5b": Architecture("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, 131072, qkv_bias=True),
    "r1-distill-qwen-7b": Architecture("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 131072, qkv_bias=True),
    "r1-distill-llama-8b": Architecture("llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072),
    "r1-distill-qwen-14b": Architecture("qwen2", 5120, 48, 40, 8, 128, 13824, 152064, 131072, qkv_bias=True),
    "r1-distill-qwen-32b": Architecture("qwen2", 5120, 64, 40, 8, 128, 27648, 152064, 131072, qkv_bias=True),
    "r1-distill-llama-70b": Architecture("llama", 8192, 80, 64, 8, 128, 28672, 128256, 131072),
    "r1": Architecture(
        "deepseek_v3",
        7168,
        61,
        128,
        128,
        64,
        18432,
        129280,
        163840,
        latent=LatentAttention(1536, 512, 128, 64, 128),
        experts=Experts(256, 8, 1, 2048, first_dense=3, num_groups=8, groups_per_token=4),
    ),
    "demo": Architecture("llama", 576, 30, 9, 3, 64, 1536, 49152, 8192, tied=True),
}


def get_architecture(variant: Variant) -> Architecture:
    """The architecture of a variant: from ``config.json`` in its folder, from the table, or from the hub.

    Raises:
        ModelError: The file cannot be read, the model type is unsupported, or it has no weights.
    """
    require_weights(variant)
    if variant.is_local:
        return from_config(read_json(Path(variant.source) / CONFIG_FILE))
    if variant.name in ARCHITECTURES:
        return ARCHITECTURES[variant.name]
    if variant.kind == "enhanced" and variant.base in ARCHITECTURES:
        return ARCHITECTURES[variant.base]
    return from_config(read_json(_download_config(variant)))


def _download_config(variant: Variant) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    pinned = pin(variant)
    if pinned.is_fetched:
        return fetch(pinned.source, pinned.revision, weights=False) / CONFIG_FILE
    try:
        return Path(hf_hub_download(pinned.source, CONFIG_FILE, revision=pinned.revision))
    except (EntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{variant.source} has no config.json that can be downloaded: {reason}") from None
