"""The models behind the service: the only importer of ``ray.serve.llm``.

Prompts are rendered and tokenized by ``safe_r1.models.chat`` and reach vLLM as tokens, so that a served model
sees what an evaluated one sees. Each model is a deployment of its own, scaled by itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from safe_r1.config import EngineConfig
from safe_r1.inference.engine import engine_arguments, engine_bundles, engine_environment
from safe_r1.models.chat import PLAIN_STOPS, load_tokenizer, render
from safe_r1.models.registry import Variant
from safe_r1.resources import Device
from safe_r1.schema import Message
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import ScalingConfig, ServeConfig
from safe_r1.serve.evaluator import Asked, Generated


@dataclass(frozen=True)
class Piece:
    """A part of a completion as it is written; the counts stand in the last one."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def model_deployment(variant: Variant, engine: EngineConfig, scaling: ScalingConfig, device: Device) -> Any:
    """A model as a Serve application to be bound into the ingress."""
    from ray.serve.llm import LLMConfig, build_llm_deployment

    arguments = engine_arguments(variant, engine, device)
    room = int(arguments["max_num_seqs"])
    llm = LLMConfig(
        model_loading_config={"model_id": variant.name, "model_source": variant.source},
        engine_kwargs=arguments,
        accelerator_type=None,
        placement_group_config={"bundles": engine_bundles(arguments, device)},
        runtime_env={"env_vars": engine_environment(variant, engine, device)},
        log_engine_metrics=True,
        deployment_config={
            # Without these there is neither back-pressure nor scaling: Serve's own limits for models are a
            # thousand million.
            "max_ongoing_requests": room,
            "max_queued_requests": int(room * scaling.queue_share),
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "initial_replicas": scaling.min_replicas,
                "target_ongoing_requests": max(1, int(room * scaling.target_share)),
                "downscale_delay_s": scaling.downscale_delay_s,
            },
            "logging_config": {"enable_access_log": False},
        },
    )
    return build_llm_deployment(llm)


class ServedModel:
    """A model of the service, as the ingress asks it.

    Attributes:
        variant: Its entry in the table of models.
        context: Tokens of prompt and completion together.
        room: Sequences that its replicas decode together.
    """

    def __init__(self, variant: Variant, handle: Any, room: int, config: ServeConfig):
        self.variant, self._config = variant, config
        self.context = config.engine.max_model_len or variant.context
        self.room = room
        self._handle = handle.options(stream=True)
        # Now, and not with the first requests: several threads that import transformers' parts at once get an
        # ImportError.
        self._tokenizer = load_tokenizer(variant.source, variant.revision, config.engine.trust_remote_code)

    async def generate(self, messages: list[Message], asked: Asked) -> Generated:
        """One whole completion, the prompt's reasoning prefix before it.

        Raises:
            ApiError: Too long a prompt, overload, engine down.
        """
        tokens, prefix = await self.render(messages)
        async for reply in self.complete(tokens, asked, self.stops):
            return Generated(
                prefix + reply.text, reply.finish_reason or "stop", len(tokens), reply.completion_tokens
            )
        raise ApiError(503, "engine_unavailable", f"{self.variant.name}: the engine ended without an answer")

    @property
    def stops(self) -> list[str]:
        """Texts at which the model's own turn ends, where its tokens do not say so."""
        return list(PLAIN_STOPS) if self.variant.style == "plain" else []

    async def render(self, messages: list[Message]) -> tuple[list[int], str]:
        """The prompt's tokens, and the reasoning prefix at its end.

        Raises:
            ApiError: It fills the context, or the model's template refuses the dialogue.
        """
        try:
            tokens, prefix = await asyncio.to_thread(self._render, messages)
        except (ValueError, TemplateError) as error:
            # Such as no user turn, or two in a row; its words may hold what was sent.
            message = (
                f"the template of {self.variant.name} does not take these messages ({type(error).__name__})"
            )
            raise ApiError(400, "invalid_messages", message, "messages") from None
        self._check_length(tokens)
        return tokens, prefix

    async def tokenize(self, prompt: str | list[int]) -> list[int]:
        """A text's tokens with those that the tokenizer adds; tokens as they are.

        Raises:
            ApiError: They fill the context, or are none of the model's.
        """
        tokens = await asyncio.to_thread(self._tokenize, prompt) if isinstance(prompt, str) else prompt
        self._check_length(tokens)
        return tokens

    def _tokenize(self, prompt: str) -> list[int]:
        return self._tokenizer(prompt)["input_ids"]

    def _check_length(self, tokens: list[int]) -> None:
        if len(tokens) >= self.context:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"the prompt has {len(tokens)} tokens; {self.variant.name} takes "
                f"{self.context} of prompt and answer together",
            )

    def _render(self, messages: list[Message]) -> tuple[list[int], str]:
        return render(messages, self.variant.style, self._tokenizer)

    async def complete(
        self, tokens: list[int], asked: Asked, stop: list[str], *, stream: bool = False
    ) -> AsyncIterator[Piece]:
        """The completion of tokens: one piece, or with ``stream`` as many as the engine writes.

        Raises:
            ApiError: Overload, engine down, or what the engine refuses.
        """
        from ray.serve.llm.openai_api_models import CompletionRequest

        generation, variant = self._config.generation, self.variant
        wanted = (
            asked.max_tokens
            or generation.max_tokens
            or generation.max_tokens_refusal
            or variant.max_tokens_refusal
        )
        temperature = _first(asked.temperature, generation.temperature, variant.temperature)
        request = CompletionRequest.model_validate(
            {
                "model": variant.name,
                "prompt": tokens,
                "max_tokens": max(1, min(wanted, self.context - len(tokens))),
                "temperature": temperature,
                "top_p": _first(asked.top_p, generation.top_p, variant.top_p),
                "stop": stop or None,
                "seed": asked.seed if temperature > 0 else None,
                "stream": stream,
                "stream_options": {"include_usage": True} if stream else None,
                "add_special_tokens": False,
            }
        )
        async for reply in self._call(request):
            for piece in _pieces(reply):
                yield piece

    async def _call(self, request: Any) -> AsyncIterator[Any]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

        name = self.variant.name
        try:
            async for reply in self._handle.completions.remote(request, None):
                yield reply
        except BackPressureError:
            raise ApiError(
                429, "overloaded", f"{name} is busy and its queue is full; try again", retry_after_s=5
            ) from None
        except (DeploymentUnavailableError, RayServeException, RayError) as error:
            raise ApiError(
                503,
                "engine_unavailable",
                f"{name}: its engine is down or starting ({type(error).__name__})",
                retry_after_s=30,
            ) from None


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _pieces(reply: Any) -> list[Piece]:
    """A reply of the engine's server: a whole response, an error, or a list of server-sent events."""
    if isinstance(reply, (list, str)):
        events = "".join(reply) if isinstance(reply, list) else reply
        lines = [
            line[6:] for line in events.splitlines() if line.startswith("data: ") and line != "data: [DONE]"
        ]
        return [piece for line in lines for piece in _pieces(json.loads(line))]
    body = reply if isinstance(reply, dict) else reply.model_dump()
    if error := body.get("error"):
        status = int(error.get("code") or 500)
        raise ApiError(
            status, error.get("type") or "engine_error", error.get("message") or "the engine gave an error"
        )
    usage = body.get("usage") or {}
    counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    choices = body.get("choices") or []
    if not choices:
        return [Piece("", None, *counts)] if usage else []
    return [Piece(choice["text"], choice.get("finish_reason"), *counts) for choice in choices]
