"""The table of model variants: the R1 family, its bases and published safe forms, the demo and the judge.

Revisions are ``main`` and resolved to a commit when a run starts (``run.json`` holds it), unless pinned here
or by ``NAME@REVISION``.

Source: DeepSeek-R1's model card for its generation settings; arXiv 2503.16529 for the family.
"""

from dataclasses import replace

from safe_r1.models.attention import Attention
from safe_r1.models.layouts import LAYOUTS
from safe_r1.models.prompts import CHAT, PLAIN, R1
from safe_r1.models.remote import MODELSCOPE
from safe_r1.models.variant import Variant


def _family(
    size: str,
    hub_size: str,
    params_b: float,
    base: str,
    *,
    context: int,
    family: str,
    tensor_parallel_size: int,
    attention: Attention,
) -> list[Variant]:
    """A distilled model, its base before distillation (of ``context`` tokens) and its published safe form."""
    r1 = Variant(
        name=f"r1-distill-{size}",
        source=f"deepseek-ai/DeepSeek-R1-Distill-{hub_size}",
        family=family,
        kind="r1",
        params_b=params_b,
        prompt=R1,
        base=base.split("/")[1].lower(),
        tensor_parallel_size=tensor_parallel_size,
        attention=attention,
        layout=LAYOUTS[f"r1-distill-{size}"],
    )
    before = Variant(
        name=base.split("/")[1].lower(),
        source=base,
        family=family,
        kind="base",
        params_b=params_b,
        prompt=CHAT if base.endswith("Instruct") else PLAIN,
        temperature=0.0,
        top_p=1.0,
        context=context,
        max_tokens_mcq=64,
        max_tokens_refusal=1024,
        max_tokens_reasoning=2048,
        context_reasoning=context,
        tensor_parallel_size=tensor_parallel_size,
        attention=attention,
    )
    enhanced = replace(
        r1,
        name=f"r1-distill-{size}-safe",
        source=f"{MODELSCOPE}UnicomAI/Unichat-DeepSeek-R1-Distill-{hub_size}-Safe-bf16",
        kind="enhanced",
        base=r1.name,
        revision="master",
    )
    return [r1, before, enhanced]


# DeepSeek-R1's FP8 weights (625 GiB) fill 8 GPUs of 80 GB: it takes 8 of 141 GB.
_R1 = Variant(
    name="r1",
    source="deepseek-ai/DeepSeek-R1",
    family="deepseek_v3",
    kind="r1",
    params_b=671.0,
    prompt=R1,
    base="deepseek-v3-base",
    tensor_parallel_size=8,
    gpu_gb=141,
    bytes_per_param=1.0,
    attention=Attention(61, 128, 1, 576, is_latent=True),
    layout=LAYOUTS["r1"],
)
_R1_BASE = Variant(
    name="deepseek-v3-base",
    source="deepseek-ai/DeepSeek-V3-Base",
    family="deepseek_v3",
    kind="base",
    params_b=671.0,
    prompt=PLAIN,
    temperature=0.0,
    top_p=1.0,
    context=8192,
    max_tokens_mcq=64,
    max_tokens_refusal=1024,
    max_tokens_reasoning=2048,
    context_reasoning=8192,
    tensor_parallel_size=8,
    gpu_gb=141,
    bytes_per_param=1.0,
    attention=Attention(61, 128, 1, 576, is_latent=True),
)
_DEMO = Variant(
    name="demo",
    source="SmolLM2-135M-Instruct",
    family="llama",
    kind="demo",
    params_b=0.135,
    prompt=CHAT,
    context=4096,
    max_tokens_mcq=32,
    max_tokens_refusal=192,
    max_tokens_reasoning=256,
    context_reasoning=4096,
    attention=Attention(30, 9, 3, 128),
    layout=LAYOUTS["demo"],
)

# tensor_parallel_size: the fewest GPUs that hold the weights with room for the key-value cache of a full
# batch (models/size.py). Of 80 GB: one up to 14B, two for 32B (61 GiB), four for 70B (131 GiB).
_FAMILIES: list[list[Variant]] = [
    _family(
        "qwen-1.5b",
        "Qwen-1.5B",
        1.78,
        "Qwen/Qwen2.5-Math-1.5B",
        context=4096,
        family="qwen2",
        tensor_parallel_size=1,
        attention=Attention(28, 12, 2, 256),
    ),
    _family(
        "qwen-7b",
        "Qwen-7B",
        7.62,
        "Qwen/Qwen2.5-Math-7B",
        context=4096,
        family="qwen2",
        tensor_parallel_size=1,
        attention=Attention(28, 28, 4, 256),
    ),
    _family(
        "llama-8b",
        "Llama-8B",
        8.03,
        "meta-llama/Llama-3.1-8B",
        context=8192,
        family="llama",
        tensor_parallel_size=1,
        attention=Attention(32, 32, 8, 256),
    ),
    _family(
        "qwen-14b",
        "Qwen-14B",
        14.77,
        "Qwen/Qwen2.5-14B",
        context=8192,
        family="qwen2",
        tensor_parallel_size=1,
        attention=Attention(48, 40, 8, 256),
    ),
    _family(
        "qwen-32b",
        "Qwen-32B",
        32.76,
        "Qwen/Qwen2.5-32B",
        context=8192,
        family="qwen2",
        tensor_parallel_size=2,
        attention=Attention(64, 40, 8, 256),
    ),
    _family(
        "llama-70b",
        "Llama-70B",
        70.55,
        "meta-llama/Llama-3.3-70B-Instruct",
        context=8192,
        family="llama",
        tensor_parallel_size=4,
        attention=Attention(80, 64, 8, 256),
    ),
]

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [*(each for family in _FAMILIES for each in family), _R1, _R1_BASE, _DEMO]
}

# The benchmark's own judge was Qwen-72B; this is its successor.
DEFAULT_JUDGE = Variant(
    name="qwen2.5-72b-instruct",
    source="Qwen/Qwen2.5-72B-Instruct",
    family="qwen2",
    kind="custom",
    params_b=72.7,
    prompt=CHAT,
    temperature=0.0,
    top_p=1.0,
    tensor_parallel_size=4,
    attention=Attention(80, 64, 8, 256),
)
