"""The served models: the only importer of ``ray.serve.llm``.

Prompts are rendered and tokenized by ``safe_r1.models.chat`` and reach vLLM as tokens, so a served model gets
exactly the prompts of an evaluation. Each model is a Serve deployment with its own autoscaling.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError
from pydantic import BaseModel

from safe_r1.config import EngineConfig, GenerationConfig
from safe_r1.inference.engine import (
    context_length,
    engine_arguments,
    engine_bundles,
    engine_environment,
    placement_strategy,
)
from safe_r1.models.chat import PLAIN_STOPS, load_tokenizer, render
from safe_r1.models.fetch import loadable
from safe_r1.models.registry import Variant
from safe_r1.resources import Device
from safe_r1.schema import Message
from safe_r1.serve.base import ChatReply, Chunk, Generation, SamplingParams
from safe_r1.serve.config import ScalingConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.sampling import choose_sampling

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
    from ray.serve.llm.openai_api_models import CompletionRequest

# Ray runs it in the deployment before it starts vLLM.
_PREPARE_ENGINE = "safe_r1.serve.prepare.PrepareEngine"
# JSON of vLLM's server, which no type describes.
_EngineReply = BaseModel | Mapping[str, Any] | str | list[str]


@dataclass(frozen=True)
class DeploymentSpec:
    """How a model is deployed.

    Attributes:
        variant: The model's registry entry, ready to load.
        engine: Its vLLM settings.
        device: Where its replicas run.
        max_replicas: Maximum number of replicas.
    """

    variant: Variant
    engine: EngineConfig
    device: Device
    max_replicas: int = 1

    @property
    def context(self) -> int:
        """Context length in tokens, prompt and completion together."""
        return context_length(self.variant, self.engine)

    @property
    def replica_slots(self) -> int:
        """Sequences that one replica decodes concurrently."""
        return int(engine_arguments(self.variant, self.engine, self.device)["max_num_seqs"])


def model_deployment(spec: DeploymentSpec, scaling: ScalingConfig) -> "Application":
    """Serve application of one model, to be bound into the ingress."""
    from ray.serve.llm import LLMConfig, build_llm_deployment

    variant = spec.variant
    arguments = engine_arguments(variant, spec.engine, spec.device)
    slots = spec.replica_slots
    llm = LLMConfig(
        model_loading_config={
            "model_id": variant.name,
            "model_source": loadable(variant.source, variant.revision, weights=False)[0],
        },
        engine_kwargs=arguments,
        # The bundles of the placement group request the GPUs, of any type.
        accelerator_type=None,
        placement_group_config={
            "bundles": engine_bundles(arguments, spec.device),
            "strategy": placement_strategy(arguments),
        },
        runtime_env={"env_vars": engine_environment(variant, spec.engine, spec.device)},
        log_engine_metrics=True,
        deployment_config={
            # Serve's defaults for models are a billion requests: without limits of our own there is neither
            # back-pressure nor autoscaling.
            "max_ongoing_requests": slots,
            "max_queued_requests": int(slots * scaling.queue_share),
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": spec.max_replicas,
                "initial_replicas": scaling.min_replicas,
                "target_ongoing_requests": max(1, int(slots * scaling.target_share)),
                "downscale_delay_s": scaling.downscale_delay_s,
            },
            "logging_config": {"enable_access_log": False},
        },
    )
    llm.callback_config.callback_class = _PREPARE_ENGINE
    with _without_starting_ray():
        return build_llm_deployment(llm)


@contextlib.contextmanager
def _without_starting_ray() -> Iterator[None]:
    """In the block, a process without Ray starts none.

    Ray asks for the runtime environment of the job, which starts a Ray where there is no job.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    asked = ray.get_runtime_context
    ray.get_runtime_context = lambda: SimpleNamespace(runtime_env={})
    try:
        yield
    finally:
        ray.get_runtime_context = asked


class ServedModel:
    """Client of one model's deployment, used by the ingress.

    Attributes:
        variant: The model's registry entry.
        context: Context length in tokens, prompt and completion together.
        slots: Sequences that all its replicas together decode concurrently.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    def __init__(self, spec: DeploymentSpec, handle: "DeploymentHandle", generation: GenerationConfig):
        self.variant = spec.variant
        self.context = spec.context
        self.slots = spec.replica_slots * spec.max_replicas
        self.own_tags = spec.variant.thinking_tags(generation.thinking_tags)
        self._generation = generation
        self._handle = handle.options(stream=True)
        # Loaded now and not by the first requests: transformers raises ImportError when several threads
        # import its submodules at once.
        self._tokenizer = load_tokenizer(
            spec.variant.source, spec.variant.revision, spec.engine.trust_remote_code
        )

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        """Generate one whole completion; its text begins with the prompt's reasoning prefix.

        Raises:
            ApiError: Prompt too long, overload, or engine down.
        """
        tokens, prefix = await self.render(messages)
        async for chunk in self.complete(tokens, params, self.stops):
            return Generation(
                prefix + chunk.text,
                chunk.finish_reason or "stop",
                len(tokens),
                chunk.completion_tokens,
                self.own_tags,
            )
        raise ApiError(503, "engine_unavailable", f"{self.variant.name}: the engine ended without an answer")

    async def chat(
        self, messages: list[Message], params: SamplingParams, stop: Sequence[str], *, stream: bool = False
    ) -> ChatReply:
        """The reply to a dialogue.

        Raises:
            ApiError: Prompt too long, or rejected by the chat template; later overload, or engine down.
        """
        tokens, prefix = await self.render(messages)
        chunks = self.complete(tokens, params, [*self.stops, *stop], stream=stream)
        return ChatReply(prefix, len(tokens), chunks, self.own_tags)

    @property
    def stops(self) -> list[str]:
        """Stop strings that end the model's turn, for models without an end-of-turn token."""
        return list(PLAIN_STOPS) if self.variant.style == "plain" else []

    async def render(self, messages: list[Message]) -> tuple[list[int], str]:
        """Render a dialogue to prompt tokens.

        Returns:
            The tokens, and the reasoning prefix at their end (empty if the prompt has none).

        Raises:
            ApiError: The prompt fills the context, or the chat template rejects the dialogue.
        """
        try:
            tokens, prefix = await asyncio.to_thread(
                render, messages, self.variant.prompt_format, self._tokenizer
            )
        except (ValueError, TemplateError) as error:
            # For example no user turn, or two in a row. The message may quote the request, so only the type
            # is returned.
            kind = type(error).__name__
            message = f"the chat template of {self.variant.name} rejects these messages ({kind})"
            raise ApiError(400, "invalid_messages", message, "messages") from None
        self._check_length(tokens)
        return tokens, prefix

    async def tokenize(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a text, with the special tokens that the tokenizer adds; tokens are returned unchanged.

        Raises:
            ApiError: The prompt fills the context.
        """
        tokens = await asyncio.to_thread(self._tokenize, prompt) if isinstance(prompt, str) else prompt
        self._check_length(tokens)
        return tokens

    def _tokenize(self, prompt: str) -> list[int]:
        return self._tokenizer(prompt)["input_ids"]

    def _check_length(self, tokens: list[int]) -> None:
        if len(tokens) >= self.context:
            message = (
                f"the prompt has {len(tokens)} tokens; the context of {self.variant.name} is "
                f"{self.context} tokens, prompt and answer together"
            )
            raise ApiError(400, "context_length_exceeded", message)

    async def complete(
        self, tokens: list[int], params: SamplingParams, stop: list[str], *, stream: bool = False
    ) -> AsyncIterator[Chunk]:
        """Complete a tokenized prompt: yields one chunk, or with ``stream`` each one that the engine sends.

        Raises:
            ApiError: Overload, engine down, or an error of the engine.
        """
        request = self._request(tokens, params, stop, stream)
        async for reply in self._call(request):
            for chunk in _read_chunks(reply):
                yield chunk

    def _request(
        self, tokens: list[int], params: SamplingParams, stop: list[str], stream: bool
    ) -> "CompletionRequest":
        from ray.serve.llm.openai_api_models import CompletionRequest

        sampling = choose_sampling(params, self._generation, self.variant)
        return CompletionRequest.model_validate(
            {
                "model": self.variant.name,
                "prompt": tokens,
                "max_tokens": max(1, min(sampling.max_tokens, self.context - len(tokens))),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "stop": stop or None,
                "stop_token_ids": list(self.variant.prompt_format.stop_token_ids) or None,
                "seed": sampling.seed,
                "stream": stream,
                "stream_options": {"include_usage": True} if stream else None,
                # The prompt is complete: rendering or tokenizing has added them.
                "add_special_tokens": False,
            }
        )

    async def _call(self, request: "CompletionRequest") -> AsyncIterator[_EngineReply]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

        name = self.variant.name
        try:
            # A handle with stream=True returns a generator, which Ray's annotation does not say.
            replies = cast(
                "DeploymentResponseGenerator[_EngineReply]", self._handle.completions.remote(request, None)
            )
            async for reply in replies:
                yield reply
        except BackPressureError:
            message = f"the queue of {name} is full; try again"
            raise ApiError(429, "overloaded", message, retry_after_s=5) from None
        except (DeploymentUnavailableError, RayServeException, RayError) as error:
            message = f"{name}: its engine is down or starting ({type(error).__name__})"
            raise ApiError(503, "engine_unavailable", message, retry_after_s=30) from None


def _read_chunks(reply: _EngineReply) -> list[Chunk]:
    """Chunks of a reply from the engine's server: a whole response, an error, or server-sent events."""
    # vLLM's server joins the events of several steps in one reply.
    if isinstance(reply, (list, str)):
        lines = "".join(reply).splitlines()
        events = [line[6:] for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
        return [chunk for event in events for chunk in _read_chunks(json.loads(event))]
    body = reply.model_dump() if isinstance(reply, BaseModel) else reply
    if error := body.get("error"):
        status = int(error.get("code") or 500)
        message = error.get("message") or "the engine reported an error"
        raise ApiError(status, error.get("type") or "engine_error", message)
    usage = body.get("usage") or {}
    counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
    choices = body.get("choices") or []
    if not choices:
        return [Chunk("", None, *counts)] if usage else []
    return [Chunk(choice["text"], choice.get("finish_reason"), *counts) for choice in choices]
