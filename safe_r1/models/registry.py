"""The table of model variants, and how a name on the command line becomes one.

Nobody else branches on a model's name. Revisions are ``main`` and resolved to a commit when a run starts
(``run.json`` holds it), unless pinned here or by ``NAME@REVISION``.

Source: DeepSeek-R1's model card for its generation settings; arXiv 2503.16529 for the family.
"""

import difflib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safe_r1.errors import ConfigError, ModelError

Style = Literal["r1", "chat", "plain"]
Kind = Literal["r1", "base", "enhanced", "demo", "custom"]

States = Literal["fp32", "bf16", "8bit"]

CONTEXT_FILES = ("config.json", "tokenizer_config.json", "chat_template.jinja")
ORIGIN_FILE = "safe_r1.json"
"""In a model folder that fine-tuning wrote: ``base`` names the variant that it was made from."""


@dataclass(frozen=True)
class Layout:
    """How a variant is fine-tuned: on which GPUs, and how the model is spread over them.

    Attributes:
        gpu: Kind of GPU, a name of ``safe_r1.train.gpus.GPUS``.
        fsdp_size: GPUs that share one copy of the parameters, gradients and optimizer states.
        tp_size: GPUs that share each matrix product.
        ep_size: GPUs that share the experts of a layer: a multiple of ``tp_size`` that divides ``fsdp_size *
            tp_size``.
        dp_replicate_size: Copies of all that, each on its own GPUs.
        micro_batch_size: Packed sequences that a GPU computes at once.
        states: Type of the optimizer's moments.
        cpu_offload: Parameters, gradients and moments wait in host memory.
        why: The reason for this layout.
    """

    gpu: str
    fsdp_size: int
    tp_size: int = 1
    ep_size: int = 1
    dp_replicate_size: int = 1
    micro_batch_size: int = 1
    states: States = "fp32"
    cpu_offload: bool = False
    why: str = ""

    @property
    def num_gpus(self) -> int:
        """Workers of the whole run."""
        return self.dp_replicate_size * self.fsdp_size * self.tp_size

    @property
    def dp_size(self) -> int:
        """Workers that each see other sequences."""
        return self.dp_replicate_size * self.fsdp_size


@dataclass(frozen=True)
class Variant:
    """A model as the jobs see it.

    Attributes:
        name: Name on the command line and in run folders.
        source: Hub id, or local folder.
        family: Architecture: ``qwen2``, ``llama`` or ``deepseek_v3`` for ours; what ``config.json`` says for
            others.
        kind: ``r1``, its ``base`` before distillation, a published ``enhanced`` one, ``demo``, or ``custom``.
        params_b: Parameters in billions; 0 where unknown.
        style: How a dialogue is rendered: ``r1`` (no system turn, reasoning prefix), ``chat`` (the model's
            own template), ``plain`` (a text to continue, for models without a template).
        base: Name of the variant it was made from.
        revision: Branch, tag or commit.
        hub: ``huggingface`` or ``modelscope``.
        context: Context of an evaluation in tokens (prompt and completion).
        max_tokens_mcq: Longest completion of a multiple-choice question, in tokens.
        max_tokens_refusal: Longest completion of a risky question, in tokens.
        max_tokens_reasoning: Longest completion of a reasoning benchmark, in tokens: DeepSeek's reports allow
            32,768.
        context_reasoning: Context where one of those is asked.
        tensor_parallel_size: GPUs of one engine.
        gpu_gb: Memory that each of them needs.
        bytes_per_param: Of the weights as they are loaded: 2 for bf16, 1 for R1's FP8.
        layout: How it is fine-tuned; None: the fewest GPUs that hold it.
    """

    name: str
    source: str
    family: str
    kind: Kind
    params_b: float
    style: Style
    base: str | None = None
    revision: str = "main"
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    temperature: float = 0.6
    top_p: float = 0.95
    context: int = 16384
    max_tokens_mcq: int = 8192
    max_tokens_refusal: int = 8192
    max_tokens_reasoning: int = 32768
    context_reasoning: int = 36864
    tensor_parallel_size: int = 1
    gpu_gb: int = 80
    bytes_per_param: float = 2.0
    layout: Layout | None = None

    @property
    def is_local(self) -> bool:
        """True where ``source`` is a folder on this machine."""
        return Path(self.source).is_dir()

    def weights_gib(self, bytes_per_param: float | None = None) -> float:
        """Size of the loaded weights in GiB; 0 where the number of parameters is unknown."""
        return self.params_b * 1e9 * (bytes_per_param or self.bytes_per_param) / 2**30


# States (weights, gradients, moments) take 16 bytes a parameter, 10 with 8-bit moments. Of 80 GB, 73 GiB are
# usable; 5 to 23 of them go to activations and gathered layers (`safe-r1 plan` counts). One sequence of 8,192
# tokens keeps a GPU busy, and all numbers of workers divide a batch of 64 sequences.
_LAYOUTS: dict[str, Layout] = {
    "r1-distill-qwen-1.5b": Layout(
        "h100-80", 1, why="26 GiB of states: one GPU holds them and waits for no other"
    ),
    "r1-distill-qwen-7b": Layout(
        "h100-80", 8, why="113 GiB of states: 14 each on one node, all traffic over NVLink"
    ),
    "r1-distill-llama-8b": Layout(
        "h100-80", 8, why="120 GiB of states: 15 each on one node, all traffic over NVLink"
    ),
    "r1-distill-qwen-14b": Layout(
        "h100-80", 8, why="220 GiB of states: 28 each on one node, all traffic over NVLink"
    ),
    "r1-distill-qwen-32b": Layout(
        "h100-80", 16, why="488 GiB of states: 61 each on one node leave no room, 31 on two do"
    ),
    "r1-distill-llama-70b": Layout(
        "h100-80", 32, why="1,051 GiB of states: 66 each on two nodes leave no room, 33 on four do"
    ),
    "r1": Layout(
        "h200-141",
        64,
        ep_size=64,
        states="8bit",
        why=(
            "6,249 GiB of states with 8-bit moments: 98 each, where fp32 moments would be 156. A GPU owns 4 of the 256 experts of "
            "a layer, so tokens travel in place of 1.2 TiB of experts. A batch of 64 sequences has no work for more GPUs"
        ),
    ),
    "demo": Layout("cpu", 1, why="2 GiB of states: any machine holds them"),
}


def _family(
    size: str, hub_size: str, params_b: float, base: str, context: int, family: str, tp: int
) -> list[Variant]:
    """One distilled model, its base before distillation (of ``context`` tokens) and its published enhanced
    form.
    """
    base_name = base.split("/")[1].lower()
    r1 = Variant(
        f"r1-distill-{size}",
        f"deepseek-ai/DeepSeek-R1-Distill-{hub_size}",
        family,
        "r1",
        params_b,
        "r1",
        base_name,
        tensor_parallel_size=tp,
        layout=_LAYOUTS[f"r1-distill-{size}"],
    )
    before = Variant(
        base_name,
        base,
        family,
        "base",
        params_b,
        "chat" if base.endswith("Instruct") else "plain",
        temperature=0.0,
        top_p=1.0,
        context=context,
        max_tokens_mcq=64,
        max_tokens_refusal=1024,
        max_tokens_reasoning=2048,
        context_reasoning=context,
        tensor_parallel_size=tp,
    )
    enhanced = replace(
        r1,
        name=f"r1-distill-{size}-safe",
        source=f"UnicomAI/Unichat-DeepSeek-R1-Distill-{hub_size}-Safe-bf16",
        kind="enhanced",
        base=r1.name,
        hub="modelscope",
        revision="master",
    )
    return [r1, before, enhanced]


# tensor_parallel_size: the fewest GPUs that hold the weights with room for the key-value cache of a full
# batch. Of 80 GB: one up to 14B, two for 32B (61 GiB), four for 70B (131 GiB). R1's FP8 weights (625 GiB)
# leave no room on 8 × 80 GB: 8 × 141 GB.
_TABLE: list[Variant] = [
    *_family("qwen-1.5b", "Qwen-1.5B", 1.78, "Qwen/Qwen2.5-Math-1.5B", 4096, "qwen2", 1),
    *_family("qwen-7b", "Qwen-7B", 7.62, "Qwen/Qwen2.5-Math-7B", 4096, "qwen2", 1),
    *_family("llama-8b", "Llama-8B", 8.03, "meta-llama/Llama-3.1-8B", 8192, "llama", 1),
    *_family("qwen-14b", "Qwen-14B", 14.77, "Qwen/Qwen2.5-14B", 8192, "qwen2", 1),
    *_family("qwen-32b", "Qwen-32B", 32.76, "Qwen/Qwen2.5-32B", 8192, "qwen2", 2),
    *_family("llama-70b", "Llama-70B", 70.55, "meta-llama/Llama-3.3-70B-Instruct", 8192, "llama", 4),
    Variant(
        "r1",
        "deepseek-ai/DeepSeek-R1",
        "deepseek_v3",
        "r1",
        671.0,
        "r1",
        "deepseek-v3-base",
        tensor_parallel_size=8,
        gpu_gb=141,
        bytes_per_param=1.0,
        layout=_LAYOUTS["r1"],
    ),
    Variant(
        "deepseek-v3-base",
        "deepseek-ai/DeepSeek-V3-Base",
        "deepseek_v3",
        "base",
        671.0,
        "plain",
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
    ),
    Variant(
        "demo",
        "SmolLM2-135M-Instruct",
        "llama",
        "demo",
        0.135,
        "chat",
        temperature=0.6,
        context=4096,
        max_tokens_mcq=32,
        max_tokens_refusal=192,
        max_tokens_reasoning=256,
        context_reasoning=4096,
        layout=_LAYOUTS["demo"],
    ),
]

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _TABLE}

# The benchmark's own judge was Qwen-72B; this is its successor.
DEFAULT_JUDGE = Variant(
    "qwen2.5-72b-instruct",
    "Qwen/Qwen2.5-72B-Instruct",
    "qwen2",
    "custom",
    72.7,
    "chat",
    temperature=0.0,
    top_p=1.0,
    tensor_parallel_size=4,
)


def get_variant(name: str) -> Variant:
    """The variant of a table name, a hub id (``owner/model``), or a local folder; ``@REVISION`` may follow a
    hub id.

    Raises:
        ConfigError: The name is neither of them; the nearest names are offered.
        ModelError: The folder holds no readable model.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    if Path(name).is_dir():
        return _local_variant(Path(name))
    bare, _, revision = name.partition("@")
    if bare in VARIANTS:
        return replace(VARIANTS[bare], revision=revision)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", bare) and not name.startswith("."):
        return Variant(
            bare.replace("/", "--"),
            bare,
            "",
            "custom",
            0.0,
            "chat",
            revision=revision or "main",
            max_tokens_reasoning=8192,
            context_reasoning=16384,
        )
    near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`safe-r1 models` lists the names."
    raise ConfigError(
        f"unknown variant {name!r}: {hint} A hub id (owner/model) or an existing folder works too."
    )


def _local_variant(folder: Path) -> Variant:
    config = read_json(folder / "config.json")
    base = read_json(folder / ORIGIN_FILE).get("base") if (folder / ORIGIN_FILE).is_file() else None
    if base in VARIANTS:
        # Asked as its base is, so that the two can be compared.
        source = str(folder.resolve())
        return replace(
            VARIANTS[base],
            name=folder.resolve().name,
            source=source,
            kind="enhanced",
            base=base,
            revision="main",
        )
    template = "".join(
        (folder / name).read_text(encoding="utf-8") for name in CONTEXT_FILES[1:] if (folder / name).is_file()
    )
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    bytes_per_param = 4.0 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2.0
    longest = int(config.get("max_position_embeddings") or 16384)
    context = min(longest, 16384)
    variant = Variant(
        folder.resolve().name,
        str(folder.resolve()),
        str(config.get("model_type", "")),
        "custom",
        weights / bytes_per_param / 1e9,
        detect_style(template),
        context=context,
        context_reasoning=min(longest, 36864),
    )
    if variant.style == "r1":
        return variant
    limits = {"mcq": 256, "refusal": 1024, "reasoning": 2048}
    return replace(
        variant, **{f"max_tokens_{task}": min(limit, context // 2) for task, limit in limits.items()}
    )


def detect_style(template: str) -> Style:
    """How a model is prompted, from the text of its tokenizer configuration and chat template."""
    if "<think>" in template or "｜Assistant｜" in template:
        return "r1"
    return "chat" if "messages" in template else "plain"


def read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not a readable model file ({error}); expected a folder saved by transformers"
        ) from None
