"""Configurations of transformers for models of given dimensions, without weights."""

from typing import Any

from transformers import AutoConfig

from safe_r1.train.architecture import Architecture


def hf_config(architecture: Architecture) -> Any:
    """A transformers configuration with these dimensions."""
    names = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "max_position_embeddings": "context",
        "tie_word_embeddings": "tied",
    }
    names |= {name: name for name in ("hidden_size", "intermediate_size", "vocab_size")}
    sizes = {theirs: getattr(architecture, ours) for theirs, ours in names.items()}
    if architecture.latent and architecture.experts:
        # Everything else is the default, which is R1's.
        sizes |= {
            "n_routed_experts": architecture.experts.num,
            "first_k_dense_replace": architecture.experts.first_dense,
            "n_group": architecture.experts.num_groups,
            "topk_group": architecture.experts.groups_per_token,
            "experts_implementation": "grouped_mm",
        }
    return AutoConfig.for_model(architecture.family, **sizes)
