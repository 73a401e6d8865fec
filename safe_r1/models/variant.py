"""A model variant: what the jobs know about a model."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from safe_r1.config import TagPair
from safe_r1.errors import ModelError
from safe_r1.models.attention import UNKNOWN, Attention
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.models.layouts import Layout
from safe_r1.models.prompts import PromptFormat, Style
from safe_r1.models.remote import is_fetched, is_uri
from safe_r1.models.thinking import ThinkingTags
from safe_r1.settings import public_settings

Kind = Literal["r1", "base", "enhanced", "demo", "custom", "endpoint", "given"]


@dataclass(frozen=True)
class Variant:
    """A model as the jobs see it.

    Attributes:
        name: Name on the command line and in run folders.
        source: Hub id, local folder, URI, ``modelscope:`` and an id, or host of an endpoint.
        family: Architecture: ``qwen2``, ``llama`` or ``deepseek_v3`` for ours; what ``config.json`` says for
            others, empty for a hub id whose files have not been read.
        kind: ``r1``, its ``base`` before distillation, a published ``enhanced`` one, ``demo``, ``endpoint``,
            ``given`` (answers that stand beside the questions), or ``custom``.
        params_b: Parameters in billions; 0 where unknown.
        prompt: How a dialogue is rendered; None for a hub id until ``checkpoints.prepare`` has read its
            tokenizer.
        base: Name of the variant it was made from.
        revision: Branch, tag or commit; with ``#`` and a hash where files are fetched (``models.fetch``).
        context: Context of an evaluation in tokens (prompt and completion).
        max_tokens_mcq: Longest completion of a multiple-choice question, in tokens.
        max_tokens_refusal: Longest completion of a risky question, in tokens.
        max_tokens_reasoning: Longest completion of a reasoning benchmark, in tokens: DeepSeek's reports allow
            32,768.
        context_reasoning: Context where one of those is asked.
        tensor_parallel_size: GPUs that share each layer in an engine.
        pipeline_parallel_size: Groups of so many GPUs in an engine, each with some of the layers.
        gpu_gb: Memory that each of them needs, in GB.
        bytes_per_param: Of the weights as an engine on GPU loads them: 2 for bf16, 1 for R1's FP8.
        attention: What its key-value cache depends on.
        layout: How it is fine-tuned; None: the fewest GPUs that hold it.
        endpoint: URLs, model and limits of a model behind a URL; None for one that an engine loads.
    """

    name: str
    source: str
    family: str
    kind: Kind
    params_b: float
    prompt: PromptFormat | None
    base: str | None = None
    revision: str = "main"
    temperature: float = 0.6
    top_p: float = 0.95
    context: int = 16384
    max_tokens_mcq: int = 8192
    max_tokens_refusal: int = 8192
    max_tokens_reasoning: int = 32768
    context_reasoning: int = 36864
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_gb: int = 80
    bytes_per_param: float = 2.0
    attention: Attention = UNKNOWN
    layout: Layout | None = None
    endpoint: EndpointEntry | None = None

    @property
    def is_given(self) -> bool:
        """True for answers that stand beside the questions: there is no model to load or to ask."""
        return self.kind == "given"

    @property
    def is_local(self) -> bool:
        """True where ``source`` is a folder on this machine."""
        return not self.is_given and Path(self.source).is_dir()

    @property
    def is_fetched(self) -> bool:
        """True where its files are fetched to the cache of each node: from a URI, or from ModelScope."""
        return is_fetched(self.source)

    @property
    def is_exported(self) -> bool:
        """True for the model of a folder or a URI that fine-tuning wrote."""
        return self.kind == "enhanced" and (self.is_local or is_uri(self.source))

    @property
    def prompt_format(self) -> PromptFormat:
        """How a dialogue is rendered.

        Raises:
            ModelError: The model's tokenizer has not been read.
        """
        if self.prompt is None:
            raise ModelError(f"{self.name}: its chat template is read when the model is prepared, not before")
        return self.prompt

    @property
    def style(self) -> Style:
        """Style of the prompts: ``r1``, ``chat`` or ``plain``.

        Raises:
            ModelError: The model's tokenizer has not been read.
        """
        return self.prompt_format.style

    def thinking_tags(self, given: TagPair | None = None) -> ThinkingTags | None:
        """Tags of the model's thoughts: as given, else of its endpoint's entry, else of its tokenizer.

        None where they are of a known form, or not known.
        """
        named = given or (self.endpoint.thinking_tags if self.endpoint else None)
        if named:
            return ThinkingTags(*named)
        return self.prompt.thinking_tags if self.prompt else None

    @property
    def num_gpus(self) -> int:
        """GPUs of one engine."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def public(self) -> dict[str, Any]:
        """The fields as plain values for ``run.json``; of an endpoint without secrets."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["prompt"] = asdict(self.prompt) if self.prompt else None
        values["attention"] = asdict(self.attention)
        values["layout"] = asdict(self.layout) if self.layout else None
        values["endpoint"] = public_settings(self.endpoint) if self.endpoint else None
        return values

    def weights_gib(self, bytes_per_param: float | None = None) -> float:
        """Size of the loaded weights in GiB; 0 where the number of parameters is unknown."""
        return self.params_b * 1e9 * (bytes_per_param or self.bytes_per_param) / 2**30
